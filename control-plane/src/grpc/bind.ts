// Binds the operations to their context for this edge. The edge itself knows only the shapes in operations.ts.
import { acceptOffer } from "../operations/accept-offer.ts";
import { checkCertificate } from "../operations/check-certificate.ts";
import { closeSession } from "../operations/close-session.ts";
import type { Context } from "../operations/context.ts";
import { enrolHost } from "../operations/enrol-host.ts";
import { finishAttempt } from "../operations/finish-attempt.ts";
import { openSession } from "../operations/open-session.ts";
import { placeOutputs } from "../operations/place-outputs.ts";
import { renewCertificate } from "../operations/renew-certificate.ts";
import { recordHealth, renewLeases } from "../operations/renew-leases.ts";
import { takeOffers, takeStops } from "../operations/take-offers.ts";
import type { GrpcOperations } from "./operations.ts";

export const bindGrpcOperations = (ctx: Context): GrpcOperations => ({
  enrolHost: (r) => enrolHost(ctx, r),
  checkCertificate: (r) => checkCertificate(ctx, r),
  renewCertificate: (r) => renewCertificate(ctx, r),
  openSession: (r) => openSession(ctx, r),
  closeSession: (r) => closeSession(ctx, r),
  takeOffers: (r) => takeOffers(ctx, r),
  takeStops: (r) => takeStops(ctx, r),
  acceptOffer: (r) => acceptOffer(ctx, r),
  renewLeases: (held) => renewLeases(ctx, held),
  recordHealth: (seen) => recordHealth(ctx, seen),
  finishAttempt: (r) => finishAttempt(ctx, r),
  placeOutputs: (r) => placeOutputs(ctx, r),
});
