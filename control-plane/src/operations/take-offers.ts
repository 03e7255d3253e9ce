// What waits for hosts: offers that their sessions have not been sent, and stops. Rows say it; the bell only hurries.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { AllocationRecord, FileRow, JsonObject } from "../domain/records.ts";
import { attemptsToStop, type OfferRow, takeUnsentOffers } from "../store/attempts.ts";
import { listFiles } from "../store/files.ts";
import { currentSessions } from "../store/sessions.ts";
import { stageResults } from "../store/stages.ts";
import type { Context } from "./context.ts";

/** Inputs are fetched at the start; their addresses outlive every sensible queue on a host. */
const inputTtlMs = 6 * 60 * 60_000;

export type OnSession = { readonly hostId: string; readonly epoch: bigint };
export type OfferRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly jobId: string;
  readonly stage: string;
  readonly kind: string;
  readonly number: number;
  readonly params: JsonObject;
  readonly request: JsonObject;
  readonly inputs: readonly {
    readonly stage: string;
    readonly name: string;
    readonly sha256: string;
    readonly sizeBytes: number;
    readonly mediaType: string;
    readonly url: string;
  }[];
  readonly results: JsonObject;
  readonly allocation: AllocationRecord;
  readonly timeoutMs: number;
  /** How long the host may go on after its last acknowledged heartbeat; 0: until the lease may be given away. */
  readonly trustedMs: number;
};

/** Throws `superseded` when the epoch is old. Marks what it answers as sent under this epoch. */
export const takeOffers = async (ctx: Context, r: OnSession): Promise<readonly OfferRecord[]> => {
  const taken = (await takeOffersOf(ctx, [r]))[0] ?? [];
  if (taken instanceof RenderplaneError) throw taken;
  return taken;
};

/** For many sessions in one transaction; one answer each, in their order: offers, or why the session is over. */
export const takeOffersOf = async (
  ctx: Context,
  sessions: readonly OnSession[],
): Promise<readonly (readonly OfferRecord[] | RenderplaneError)[]> =>
  ctx.db.transaction(async (tx) => {
    const rows = await takeUnsentOffers(tx, sessions);
    const withInputs = rows.filter((row) => row.spec.uploads || row.spec.needs.length > 0).map((row) => row.jobId);
    const files = withInputs.length === 0 ? [] : await listFiles(tx, [...new Set(withInputs)]);
    const results = withInputs.length === 0 ? [] : await stageResults(tx, [...new Set(withInputs)]);
    const nameOf = (r: OnSession) => `${r.hostId}/${r.epoch}`;
    const offers = Map.groupBy(rows, nameOf);
    const current = offers.size === sessions.length ? new Set() : await currentSessions(tx, sessions);
    const facts = { files: Map.groupBy(files, (f) => f.jobId), results: Map.groupBy(results, (r) => r.jobId) };
    return sessions.map((session) => {
      const name = nameOf(session);
      const own = offers.get(name);
      // Asked twice in one turn: an offer is sent once.
      if (own && offers.delete(name)) return own.map((row) => complete(ctx, row, facts));
      return current.has(name)
        ? []
        : new RenderplaneError("superseded", `session ${session.epoch} of host ${session.hostId} is not its newest`);
    });
  });

type InputFacts = {
  readonly files: ReadonlyMap<string, readonly FileRow[]>;
  readonly results: ReadonlyMap<string, readonly { readonly name: string; readonly result: JsonObject | null }[]>;
};

const complete = (ctx: Context, row: OfferRow, facts: InputFacts): OfferRecord => {
  const isInput = (stage: string) => (stage === "" ? row.spec.uploads : row.spec.needs.includes(stage));
  return {
    attemptId: row.attemptId,
    fence: row.fence,
    jobId: row.jobId,
    stage: row.stage,
    kind: row.kind,
    number: row.number,
    params: row.spec.params,
    request: row.request,
    inputs: (facts.files.get(row.jobId) ?? [])
      .filter((file) => isInput(file.stage))
      .map((file) => ({
        stage: file.stage,
        name: file.name,
        sha256: file.sha256,
        sizeBytes: Number(file.sizeBytes),
        mediaType: file.mediaType,
        url: ctx.signer.sign({ method: "GET", sha256: file.sha256, ttlMs: inputTtlMs }),
      })),
    results: Object.fromEntries(
      (facts.results.get(row.jobId) ?? [])
        .filter((line) => row.spec.needs.includes(line.name))
        .map((line) => [line.name, line.result]),
    ),
    allocation: row.allocation,
    timeoutMs: row.spec.timeoutMs,
    trustedMs: row.spec.exclusive ? 0 : ctx.timings.orphanMs,
  };
};

export type StopRecord = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly reason: "cancelled" | "lease_lost" | "give_back";
};
export const takeStops = async (ctx: Context, r: OnSession): Promise<readonly StopRecord[]> =>
  (await takeStopsOf(ctx, [r]))[0] ?? [];

export const takeStopsOf = async (
  ctx: Context,
  sessions: readonly OnSession[],
): Promise<readonly (readonly StopRecord[])[]> => {
  const rows = await attemptsToStop(
    ctx.db.direct,
    sessions.map((s) => s.hostId),
  );
  return sessions.map(({ hostId }) =>
    rows.filter((row) => row.hostId === hostId).map(({ attemptId, fence, reason }) => ({ attemptId, fence, reason })),
  );
};
