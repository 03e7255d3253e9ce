// What the end of a process means: exit code, signal and stderr in, one class of proto/kernel/failure.ts out.
// The knowledge is data (ffmpeg-errors.json: signatures seen on FFmpeg 5.1 to 9.0); this file orders it and maps its words to ours.
// Text decides first and the code second, because exit codes changed between versions; and exit 0 is no proof of success.
import { type FailureClass, factsOf } from "@renderplane/proto/kernel/failure.ts";
import { maxEvidenceBytes } from "@renderplane/proto/kernel/limits.ts";
import { type ProcessEnd, StageFailure } from "../work/contract.ts";
import catalogue from "./ffmpeg-errors.json" with { type: "json" };

export type ExitEvidence = {
  /** Name for the message, e.g. "ffmpeg". */
  readonly program: string;
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stderr: string;
};

export type ExitVerdict = {
  readonly failureClass: FailureClass;
  readonly message: string;
  readonly evidence: string;
  /** "183", "SIGKILL" or "0" (a failure that the exit code hid). */
  readonly exit: string;
  readonly ruleId: string;
};

type Meaning = {
  /** When the process failed; undefined leaves the line to the next rule. */
  readonly failed: FailureClass | undefined;
  /** When it exited with 0 and the rule says `stderr_always`. */
  readonly clean: FailureClass | undefined;
};
const always = (failureClass: FailureClass): Meaning => ({ failed: failureClass, clean: failureClass });
const onlyAWarning: Meaning = { failed: undefined, clean: undefined };

/** The words of the catalogue in ours. Total over the catalogue; the test proves it. */
export const meanings: { readonly [catalogueClass: string]: Meaning } = {
  transient: always("transient"),
  network_transient: always("network"),
  network_config: always("host_fault"),
  consumer_gone: always("transfer_failed"),
  input_missing: always("input_missing"),
  input_corrupt: always("input_corrupt"),
  input_auth: always("input_missing"),
  input_bad_url: always("input_invalid"),
  input_stream_missing: always("input_refused"),
  // Concealed damage: the pictures are worse but complete. The validation of the result judges it.
  input_damaged: { failed: "input_corrupt", clean: undefined },
  quality_warning: onlyAWarning,
  timestamp_warning: onlyAWarning,
  config_warning: onlyAWarning,
  bad_args: always("agent_bug"),
  agent_config: always("agent_bug"),
  output_conflict: always("agent_bug"),
  encoder_unavailable: always("encoder_unavailable"),
  encoder_feature_unsupported: always("encoder_unavailable"),
  encoder_open_failed: always("encoder_unavailable"),
  hwaccel_unavailable: always("encoder_unavailable"),
  hwdec_unsupported: always("encoder_unavailable"),
  decoder_unavailable: always("host_fault"),
  filter_unavailable: always("host_fault"),
  nvenc_session_limit: always("encoder_sessions"),
  gpu_oom: always("gpu_oom"),
  gpu_lost: always("gpu_lost"),
  gpu_fault: always("gpu_lost"),
  gpu_degraded: always("gpu_lost"),
  gpu_app_error: always("crashed"),
  driver_mismatch: always("driver"),
  driver_missing: always("driver"),
  host_oom: always("host_memory"),
  disk_full: always("disk_full"),
  host_overload: always("host_fault"),
  host_fault: always("host_fault"),
  permission: always("host_fault"),
  killed: always("killed"),
  interrupted: always("killed"),
  crash: always("crashed"),
  hang: always("stalled"),
  output_write_failed: always("output_invalid"),
  output_empty: always("output_invalid"),
  unknown: always("unknown"),
};

/** Where one rule is more exact for us than its class. */
const meaningsById: { readonly [ruleId: string]: Meaning } = {
  spawn_failed: always("missing_program"),
};

type Rule = {
  readonly id: string;
  readonly scope: "stderr" | "stderr_always" | "exit";
  readonly pattern: RegExp;
  readonly meaning: Meaning;
};

/** The catalogue in its order; the first match wins. Rules about nvidia-smi and the kernel's log are read elsewhere. */
const rules: readonly Rule[] = [...catalogue]
  .sort((a, b) => a.priority - b.priority)
  .flatMap((entry) => {
    const { scope } = entry;
    if (scope !== "stderr" && scope !== "stderr_always" && scope !== "exit") return [];
    const meaning = meaningsById[entry.id] ?? meanings[entry.class];
    if (meaning === undefined)
      throw new Error(`ffmpeg-errors.json: rule ${entry.id} has the unknown class ${entry.class}`);
    return [{ id: entry.id, scope, pattern: new RegExp(entry.pattern, entry.flags), meaning }];
  });

/** undefined when the process did its work. */
export const classify = (end: ExitEvidence): ExitVerdict | undefined => {
  const isClean = end.exitCode === 0;
  const exitText = end.exitCode === null ? `signal:${end.signal ?? "unknown"}` : `exit:${end.exitCode}`;
  for (const rule of rules) {
    if (isClean && rule.scope !== "stderr_always") continue;
    const failureClass = isClean ? rule.meaning.clean : rule.meaning.failed;
    if (failureClass === undefined) continue;
    const match = rule.pattern.exec(rule.scope === "exit" ? exitText : end.stderr);
    if (match === null) continue;
    const line = rule.scope === "exit" ? undefined : lineAt(end.stderr, match.index);
    return verdict(end, failureClass, rule.id, line);
  }
  if (isClean) return undefined;
  const lastLine = end.stderr.trimEnd().split("\n").at(-1);
  return end.exitCode === null
    ? verdict(end, "killed", "other_signal", undefined)
    : verdict(end, "unknown", "no_rule", lastLine === "" ? undefined : lastLine);
};

/** Throws when the process failed, whatever its exit code says. `what` is the act in words: "the loudness pass". */
export const failOn = (end: ProcessEnd, what: string): void => {
  const found = classify({ program: what, exitCode: end.exitCode, signal: end.signal, stderr: end.stderr });
  if (found === undefined) return;
  throw new StageFailure(found.failureClass, found.message, { evidence: found.evidence, exit: found.exit });
};

const verdict = (
  end: ExitEvidence,
  failureClass: FailureClass,
  ruleId: string,
  line: string | undefined,
): ExitVerdict => {
  const exit = end.exitCode === null ? (end.signal ?? "signal") : String(end.exitCode);
  const cause = line === undefined ? "" : `: "${cleanLine(line)}"`;
  return {
    failureClass,
    message: `${end.program} failed, ${factsOf(failureClass).summary}${cause} (exit ${exit})`,
    evidence: tailBytes(end.stderr, maxEvidenceBytes),
    exit,
    ruleId,
  };
};

const lineAt = (text: string, index: number): string => {
  const from = text.lastIndexOf("\n", index - 1) + 1;
  const to = text.indexOf("\n", index);
  return text.slice(from, to < 0 ? undefined : to);
};

/** Addresses differ from run to run and say nothing; 300 characters hold every known line. */
const cleanLine = (line: string): string =>
  line
    .replaceAll(/ @ 0x[0-9a-f]+/g, "")
    .trim()
    .slice(0, 300);

/** The end is kept: causes stand within the last lines. A cut character at the front is dropped. */
const tailBytes = (text: string, limit: number): string => {
  const bytes = Buffer.from(text, "utf8");
  if (bytes.length <= limit) return text;
  let from = bytes.length - limit;
  while (from < bytes.length && ((bytes[from] ?? 0) & 0xc0) === 0x80) from += 1;
  return bytes.subarray(from).toString("utf8");
};
