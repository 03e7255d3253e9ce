// Sends an attempt's progress: at most two messages a second, always the newest, and never a fraction that falls,
// because a replay after a restart passes through finished steps again. May lose anything; nothing depends on it.
import type { Offer, Progress } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { ControlPlane, StageContext } from "./contract.ts";

const minGapMs = 500;
const maxStepLength = 200;

export const createProgressSender = (
  offer: Pick<Offer, "attemptId" | "fence">,
  send: ControlPlane["sendProgress"],
): { readonly report: StageContext["progress"]; close(): void } => {
  let fraction = 0;
  let newest: Progress | undefined;
  let sentAtMs = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  const flush = () => {
    timer = undefined;
    if (!newest || isClosed) return;
    sentAtMs = performance.now();
    send(newest);
    newest = undefined;
  };
  return {
    report: (update) => {
      if (isClosed) return;
      fraction = Math.max(fraction, Math.min(1, Math.max(0, update.fraction || 0)));
      newest = {
        attemptId: offer.attemptId,
        fence: offer.fence,
        fraction,
        speed: update.speed ?? 0,
        etaMs: BigInt(update.etaMs === undefined ? -1 : Math.max(0, Math.round(update.etaMs))),
        step: update.step.slice(0, maxStepLength),
      };
      const wait = sentAtMs + minGapMs - performance.now();
      if (wait <= 0) flush();
      else timer ??= setTimeout(flush, wait);
    },
    close: () => {
      isClosed = true;
      clearTimeout(timer);
    },
  };
};
