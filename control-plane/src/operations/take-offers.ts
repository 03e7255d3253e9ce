// What waits for a host: offers that its session has not been sent, and stops. Rows say it; the bell only hurries.
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { AllocationRecord, JsonObject } from "../domain/records.ts";
import { attemptsToStop, type OfferRow, takeUnsentOffers } from "../store/attempts.ts";
import type { Tx } from "../store/database.ts";
import { listFiles } from "../store/files.ts";
import { isCurrentEpoch } from "../store/hosts.ts";
import { listStages } from "../store/stages.ts";
import type { Context } from "./context.ts";

/** Inputs are fetched at the start; their addresses outlive every sensible queue on a host. */
const inputTtlMs = 6 * 60 * 60_000;

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
export const takeOffers = async (
  ctx: Context,
  r: { readonly hostId: string; readonly epoch: bigint },
): Promise<OfferRecord[]> =>
  ctx.db.transaction(async (tx) => {
    if (!(await isCurrentEpoch(tx, r.hostId, r.epoch)))
      throw new RenderplaneError("superseded", `a newer session of host ${r.hostId} is open`);
    const rows = await takeUnsentOffers(tx, r.hostId, r.epoch);
    return Promise.all(rows.map((row) => complete(ctx, tx, row)));
  });

const complete = async (ctx: Context, tx: Tx, row: OfferRow): Promise<OfferRecord> => {
  const files = await listFiles(tx, row.jobId);
  const stages = await listStages(tx, row.jobId);
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
    inputs: files
      .filter((file) => isInput(file.stage))
      .map((file) => ({
        stage: file.stage,
        name: file.name,
        sha256: file.sha256,
        sizeBytes: Number(file.sizeBytes),
        mediaType: file.mediaType,
        url: ctx.signer.sign({ method: "GET", sha256: file.sha256, ttlMs: inputTtlMs }),
      })),
    results: Object.fromEntries(stages.filter((s) => row.spec.needs.includes(s.name)).map((s) => [s.name, s.result])),
    allocation: row.allocation,
    timeoutMs: row.spec.timeoutMs,
    trustedMs: row.spec.exclusive ? 0 : ctx.timings.orphanMs,
  };
};

export const takeStops = async (
  ctx: Context,
  r: { readonly hostId: string; readonly epoch: bigint },
): Promise<{ attemptId: string; fence: bigint; reason: "cancelled" | "lease_lost" }[]> =>
  (await attemptsToStop(ctx.db.direct, r.hostId)).map((a) => ({ ...a, reason: "cancelled" as const }));
