// docs/states.md from proto/kernel: the state machine of a stage, how attempts end, and the classes of failure.
// Only the sentences here are written by hand; every table and the picture are read from the code that runs.
import { failureClasses } from "@renderplane/proto/kernel/failure.ts";
import {
  attemptOutcomes,
  isFinal,
  isFinalJob,
  isLeased,
  jobStates,
  next,
  type StageEvent,
  type StageState,
  stageEvents,
  stageStates,
} from "@renderplane/proto/kernel/stage-state.ts";

const stateMeaning: Record<StageState, string> = {
  pending: "waits for the stages that it needs",
  ready: "in the queue",
  offered: "leased to a host that has not answered yet",
  running: "a host works on it",
  waiting: "a retry has a time",
  blocked: "held back by a budget until somebody releases it",
  cancelling: "the host is stopping the process; nothing is given away before that",
  succeeded: "its outputs count",
  failed: "no retry is left, or a retry would not help",
  cancelled: "ended on request",
  skipped: "a stage that it needs will never succeed",
};

const eventMeaning: Record<StageEvent, string> = {
  unlock: "the last stage that it needs has succeeded",
  offer: "the placer wrote a lease for a host",
  accept: "the host took it and the accept is committed",
  return: "refused, not answered, or the host stopped before it could begin; not counted as a try",
  succeed: "the attempt ended well",
  retry: "the attempt ended badly and the recovery rules give it another time",
  fail: "the attempt ended badly for good, or the budget says no",
  wake: "the time of the retry has come",
  block: "a budget holds it back",
  unblock: "the budget lets it go",
  cancel: "the job was cancelled",
  stopped: "the host confirmed the stop, or its lease ran out",
  skip: "a stage that it needs ended without success",
};

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

export const statesPage = (): string => {
  const edges = stageStates.flatMap((from) => Object.entries(next[from]).map(([event, to]) => ({ from, event, to })));
  const picture = [
    "stateDiagram-v2",
    "  [*] --> pending",
    ...edges.map((e) => `  ${e.from} --> ${e.to}: ${e.event}`),
    ...stageStates.filter(isFinal).map((s) => `  ${s} --> [*]`),
  ];
  return `<!-- Written by scripts/docs.ts from proto/kernel; change the code, then run: node scripts/docs.ts -->
# States

There is one state machine, the stage's. An attempt is a row with an outcome; a job's state is derived from its stages in
the transaction that changes them.

## A stage

\`\`\`mermaid
${picture.join("\n")}
\`\`\`

${table(
  ["state", "meaning", "leased to a host", "final"],
  stageStates.map((s) => [`\`${s}\``, stateMeaning[s], isLeased(s) ? "yes" : "", isFinal(s) ? "yes" : ""]),
)}

What follows from what; an empty cell is refused.

${table(
  ["", ...stageEvents.map((e) => `\`${e}\``)],
  stageStates.filter((s) => !isFinal(s)).map((s) => [`\`${s}\``, ...stageEvents.map((e) => next[s][e] ?? "")]),
)}

${table(
  ["event", "when"],
  stageEvents.map((e) => [`\`${e}\``, eventMeaning[e]]),
)}

## An attempt

Ends once, as one of: ${attemptOutcomes.map((o) => `\`${o}\``).join(", ")}. \`refused\`, \`expired\` and \`interrupted\` say
nothing against the work and do not count as a try.

## A job

One of: ${jobStates.map((s) => `\`${s}\`${isFinalJob(s) ? " (final)" : ""}`).join(", ")}.

## Classes of failure

The agent turns evidence into a class, the control plane turns the class into a recovery.

${table(
  ["class", "severity", "another try", "meaning"],
  Object.entries(failureClasses).map(([name, facts]) => [`\`${name}\``, facts.severity, facts.retry, facts.summary]),
)}
`;
};
