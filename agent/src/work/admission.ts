// Whether an offer is taken: a valid spec, a kind that this agent can run, room by the capacity table, free disk.
// The first reason wins and goes back to the control plane as a refusal, which costs the stage no try.
// Leaves the answer to the supervisor. Keeps: an offer is in the journal before anybody hears that it was taken.
import { type Offer, Refusal } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Allocation, Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { maxInputsPerStage, sha256Pattern } from "@renderplane/proto/kernel/limits.ts";
import { admit } from "../domain/capacity.ts";
import type { ArtifactCache } from "./cache.ts";
import { type AttemptFolder, attemptFolder, attemptIdPattern } from "./folder.ts";
import type { Host } from "./host.ts";

export type Refused = { readonly ok: false; readonly refusal: Refusal; readonly reason: string };

export type Surroundings = {
  readonly host: Host;
  /** The agent's state folder. */
  readonly dir: string;
  readonly inventory: Inventory;
  readonly kinds: ReadonlySet<string>;
  /** What is accepted or running now. */
  readonly held: readonly Allocation[];
  readonly cache: Pick<ArtifactCache, "shrink">;
};

/** Left free on the scratch disk whatever is offered: journals and results must always find room. */
export const reservedBytes = 256 * 1024 ** 2;
/** An estimate of scratch space is an estimate. */
const scratchFactor = 1.2;

/** When it is taken it is in the journal, durably: the answer may be sent. */
export const takeOffer = async (
  offer: Offer,
  around: Surroundings,
): Promise<{ readonly ok: true; readonly folder: AttemptFolder } | Refused> => {
  const { host } = around;
  const wrong = invalidField(offer);
  if (wrong !== undefined || !offer.allocation)
    return refuse(Refusal.REFUSAL_SPEC_INVALID, wrong ?? "allocation: missing");
  if (!around.kinds.has(offer.kind))
    return refuse(Refusal.REFUSAL_MISSING_CAPABILITY, `kind: this agent cannot run ${JSON.stringify(offer.kind)}`);
  const fits = admit(offer.allocation, around.inventory, around.held);
  if (!fits.ok) return refuse(Refusal.REFUSAL_NO_CAPACITY, fits.reason);
  const wantedBytes = Number(offer.allocation.scratchBytes) * scratchFactor + reservedBytes;
  let freeBytes = await host.disk.freeBytes(around.dir);
  if (freeBytes < wantedBytes) {
    // The cache is the one thing here that nobody needs.
    await around.cache.shrink(0);
    freeBytes = await host.disk.freeBytes(around.dir);
  }
  const mib = (bytes: number) => Math.round(bytes / 1024 ** 2);
  if (freeBytes < wantedBytes)
    return refuse(Refusal.REFUSAL_DISK_LOW, `scratch: ${mib(freeBytes)} MiB free, ${mib(wantedBytes)} MiB wanted`);
  const folder = attemptFolder(around.dir, offer.attemptId, host.disk);
  try {
    // Left behind when a removal failed: its steps and results would answer for this one.
    if (folder.exists()) {
      await host.endMarked(folder.root);
      folder.remove();
    }
    folder.writeSpec({ offer, bootId: host.bootId });
  } catch (error) {
    removeQuietly(folder);
    return refuse(Refusal.REFUSAL_DISK_LOW, `journal: cannot be written, ${error}`);
  }
  return { ok: true, folder };
};

/** What cannot be removed now is removed when the id comes again. */
const removeQuietly = (folder: AttemptFolder): void => {
  try {
    folder.remove();
  } catch {
    // The refusal says what is wrong with the disk.
  }
};

const refuse = (refusal: Refusal, reason: string): Refused => ({ ok: false, refusal, reason });

/** What is wrong with the offer, or undefined. Fields of params and request are the stage kind's to check. */
const invalidField = (offer: Offer): string | undefined => {
  if (!attemptIdPattern.test(offer.attemptId))
    return "attempt_id: must be letters, digits, dashes and underscores, at most 64";
  if (offer.timeoutMs <= 0) return `timeout_ms: must be more than 0, got ${offer.timeoutMs}`;
  if (offer.inputs.length > maxInputsPerStage)
    return `inputs: ${offer.inputs.length}, at most ${maxInputsPerStage} are allowed`;
  for (const [index, input] of offer.inputs.entries()) {
    if (!input.artifact || !sha256Pattern.test(input.artifact.sha256))
      return `inputs[${index}].artifact.sha256: must be 64 lower-case hex digits`;
    if (input.artifact.sizeBytes < 0n) return `inputs[${index}].artifact.size_bytes: must not be negative`;
    if (!/^https?:\/\//.test(input.url)) return `inputs[${index}].url: must be an http or https address`;
  }
  for (const field of ["params", "request", "results"] as const) {
    const value = parsed(offer[field] || "{}");
    if (typeof value !== "object" || value === null || Array.isArray(value)) return `${field}: must be a JSON object`;
  }
  return undefined;
};

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};
