// Binds the operations to their context for this edge. The edge itself knows only the shapes in operations.ts.
import { isCode, RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { gather } from "@renderplane/proto/kernel/process/gather.ts";
import { type Acceptance, acceptOffers } from "../operations/accept-offer.ts";
import { checkCertificate } from "../operations/check-certificate.ts";
import { closeSession } from "../operations/close-session.ts";
import type { Context } from "../operations/context.ts";
import { enrolHost } from "../operations/enrol-host.ts";
import { type Finish, finishAttempts } from "../operations/finish-attempt.ts";
import { openSession } from "../operations/open-session.ts";
import { placeOutputs } from "../operations/place-outputs.ts";
import { renewCertificate } from "../operations/renew-certificate.ts";
import { recordHealth, renewLeases } from "../operations/renew-leases.ts";
import { type OnSession, takeOffersOf, takeStopsOf } from "../operations/take-offers.ts";
import { refusedSessions, waitingHosts } from "../operations/watch-sessions.ts";
import { isRowHeld } from "../store/database.ts";
import type { GrpcOperations } from "./operations.ts";

/** Rows that one transaction changes at the most; locks are held longer with every one. */
const maxBatch = 200;

/**
 * What many hosts ask for at once becomes one transaction: a burst of offers, accepts and ends costs as many statements as one.
 */
const gathered = (ctx: Context) => {
  // A row that somebody holds too long (a replica that was stopped in a transaction) fails the one that needs it, not the others.
  const isShared = (error: unknown) => isCode(error, "unavailable") && !isRowHeld(error);
  const together = <I, O>(act: (items: readonly I[]) => Promise<readonly O[]>) =>
    gather({ max: maxBatch, act, isShared });
  const offers = together((items: readonly OnSession[]) => takeOffersOf(ctx, items));
  return {
    takeOffers: async (r: OnSession) => {
      const taken = await offers(r);
      if (taken instanceof RenderplaneError) throw taken;
      return taken;
    },
    takeStops: together((items: readonly OnSession[]) => takeStopsOf(ctx, items)),
    acceptOffer: together((items: readonly Acceptance[]) => acceptOffers(ctx, items)),
    finishAttempt: together((items: readonly Finish[]) => finishAttempts(ctx, items)),
  };
};

export const bindGrpcOperations = (ctx: Context): GrpcOperations => ({
  ...gathered(ctx),
  enrolHost: (r) => enrolHost(ctx, r),
  checkCertificate: (r) => checkCertificate(ctx, r),
  renewCertificate: (r) => renewCertificate(ctx, r),
  openSession: (r) => openSession(ctx, r),
  closeSession: (r) => closeSession(ctx, r),
  renewLeases: (held) => renewLeases(ctx, held),
  recordHealth: (seen) => recordHealth(ctx, seen),
  placeOutputs: (r) => placeOutputs(ctx, r),
  waitingHosts: () => waitingHosts(ctx),
  refusedSessions: (r) => refusedSessions(ctx, r),
});
