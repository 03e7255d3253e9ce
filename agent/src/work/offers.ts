// What becomes of an offer: the same answer as before when it is known, a refusal while the agent takes nothing, else admission.
// One offer at a time is the caller's duty. Keeps: whatever was answered with yes is in the journal and in `entries`.
import { type Offer, Refusal } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Allocation } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { Lease } from "../domain/trust.ts";
import { type Surroundings, takeOffer } from "./admission.ts";
import type { ControlPlane } from "./contract.ts";
import type { Entry } from "./entry.ts";

export const considerOffers = (
  options: Omit<Surroundings, "held"> & {
    readonly entries: Map<string, Entry>;
    readonly control: Pick<ControlPlane, "answerOffer">;
    /** Why nothing is taken now, or "". */
    readonly refusing: () => string;
    /** Why the journal takes nothing more, or undefined. */
    readonly fullness: () => string | undefined;
    readonly leaseOf: (offer: Offer, renewedMs: number) => Lease;
    readonly onTaken: () => void;
    readonly log: Logger;
  },
): ((offer: Offer) => Promise<void>) => {
  const { entries, host, log } = options;
  return async (offer) => {
    const yes = () => answer(true, Refusal.REFUSAL_UNSPECIFIED, "");
    const no = (refusal: Refusal, reason: string) => {
      log.info({ attempt_id: offer.attemptId, reason }, "offer refused");
      answer(false, refusal, reason);
    };
    const answer = (accepted: boolean, refusal: Refusal, reason: string) =>
      options.control.answerOffer({ attemptId: offer.attemptId, fence: offer.fence, accepted, refusal, reason });

    const known = entries.get(offer.attemptId);
    // The same offer again (its answer was lost): the same answer.
    if (known?.offer.fence === offer.fence) return yes();
    if (known) return no(Refusal.REFUSAL_ALREADY_HELD, `held under fence ${known.offer.fence}`);
    if (options.refusing() !== "") return no(Refusal.REFUSAL_DRAINING, options.refusing());
    const fullness = options.fullness();
    if (fullness !== undefined) return no(Refusal.REFUSAL_JOURNAL_FULL, fullness);
    const taken = await takeOffer(offer, { ...options, held: allocationsOf(entries) });
    if (!taken.ok) return no(taken.refusal, taken.reason);
    const now = host.nowMs();
    entries.set(offer.attemptId, {
      offer,
      folder: taken.folder,
      heldSinceMs: now,
      // The accept renews the lease when it is committed, which is after this moment.
      lease: options.leaseOf(offer, now),
      state: "accepted",
    });
    yes();
    options.onTaken();
  };
};

/** What ended holds nothing of the host but its place in the journal. */
const allocationsOf = (entries: ReadonlyMap<string, Entry>): Allocation[] =>
  [...entries.values()].flatMap((entry) => (entry.state === "ended" ? [] : (entry.offer.allocation ?? [])));
