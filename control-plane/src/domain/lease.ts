// Who may go on working after a reconnect. The fence decides, never the holder: a stale one is told to abandon.
import type { AttemptOutcome, AttemptState } from "@renderplane/proto/kernel/stage-state.ts";

export type Held = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly state: "accepted" | "running" | "ended";
};
export type Known = { readonly fence: bigint; readonly state: AttemptState; readonly outcome: AttemptOutcome | null };
export type HeldVerdict = {
  readonly attemptId: string;
  readonly fence: bigint;
  readonly action: "continue" | "abandon" | "report";
};

export const judgeHeld = (held: Held, known: Known | undefined): HeldVerdict => {
  const isOurs = known !== undefined && known.fence === held.fence && known.state !== "ended";
  const action = !isOurs ? "abandon" : held.state === "ended" ? "report" : "continue";
  return { attemptId: held.attemptId, fence: held.fence, action };
};
