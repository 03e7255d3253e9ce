// The stream of a host is gone. Its work goes on until the leases run out; only its presence changes here, in one statement.
import { closeHostSession } from "../store/host-sessions.ts";
import type { Context } from "./context.ts";

export const closeSession = async (
  ctx: Context,
  r: {
    readonly hostId: string;
    readonly epoch: bigint;
    /** The agent said that it leaves: its silence is no sign of trouble in its pool. */
    readonly saidGoodbye?: boolean;
  },
): Promise<void> => {
  if (await closeHostSession(ctx.db.direct, { ...r, saidGoodbye: r.saidGoodbye ?? false })) ctx.bus.ring("events");
};
