// The command line of the fleet simulator: every option, its bounds and its words. Values that make no sense end the program with
// the option's name before anything is started.
import { parseArgs } from "node:util";
import { type FailureClass, isFailureClass } from "@renderplane/proto/kernel/failure.ts";
import { defaultProfiles, defaultScenario, type Scenario } from "./scenario.ts";

export const usage = `Usage: scripts/simulate-fleet [options]

Loads a control plane with simulated hosts over real gRPC with mTLS, and jobs over HTTP. Without --server it starts a
control plane with a database of its own, and stops and removes both. A live line a second; the report as JSON on stdout.

  --hosts N          simulated hosts (default 20)
  --jobs M           jobs at most (default: as many as arrive)
  --rate R           jobs a second at random moments; 0: all at once (default 5)
  --duration D       seconds during which jobs arrive (default 30)
  --drain D          seconds that the rest may take (default 60)
  --pipeline NAME    narrated-video (default), or bench-noop: one stage that does nothing
  --stage-ms MS      median of a render without a GPU; other stages in proportion (default 2000)
  --sigma S          spread of the durations, of the logarithm (default 0.6)
  --fixed-ms MS      every stage takes exactly this instead; 0: nothing
  --fail CLASS=P     stages fail with this class with probability P; may be repeated, e.g. crashed=0.02
  --churn L          losses an hour and host; a part without a word, a part as restarts (default 0)
  --away S           mean seconds that a lost host stays away (default 20)
  --gpu-share P      part of the hosts that have a GPU (default 0.2)
  --provider NAME    one more provider that hosts have, e.g. openai.chat; may be repeated
  --seed S           the same draws again (default 1)
  --server URL       load this one instead (hosts are enrolled with join tokens from it)
  --enrol ADDRESS    where hosts enrol at that server (default: what it answers)
  --replicas N       control planes to start, 1 to 3 (default 1); more than one brings a Redis along
  --heartbeat S      seconds (default 5); every other window follows from it
  --processes N      processes of simulated hosts (default: one for 500 hosts)
  --protocol N       the highest protocol that hosts speak
  --report FILE      the report into a file as well
  --quiet            no live line
  --check            afterwards the model of the same scenario, and how far it is off

  --plan             no network: the model answers for these hosts and this rate (--duration in hours then, default 24)
  --target-wait S    with --plan: how many hosts keep the 95th percentile of the wait below this
  --max-running N    with --plan: jobs in work at once at most (default: no limit)`;

export type Options = {
  readonly scenario: Scenario;
  readonly jobs: number;
  readonly rate: number;
  readonly durationMs: number;
  readonly drainMs: number;
  readonly pipeline: string;
  readonly server: string | undefined;
  readonly enrolAddress: string | undefined;
  readonly replicas: number;
  readonly heartbeatSeconds: number;
  readonly processes: number;
  readonly protocolMax: number | undefined;
  readonly reportFile: string | undefined;
  readonly isQuiet: boolean;
  readonly isPlan: boolean;
  readonly isChecked: boolean;
  readonly targetWaitMs: number | undefined;
  readonly maxRunningJobs: number;
};

export class UsageError extends Error {}

/** undefined: help was asked for. Throws UsageError. */
export const readOptions = (args: readonly string[]): Options | undefined => {
  const values = parse(args);
  if (values.help) return undefined;
  const isPlan = values.plan === true;
  const number = (name: keyof typeof bounds, fallback: number): number => {
    const text = values[name];
    if (typeof text !== "string") return fallback;
    const [least, most, isWhole] = bounds[name];
    const value = Number(text);
    if (text.trim() === "" || !(value >= least && value <= most) || (isWhole && !Number.isInteger(value)))
      throw new UsageError(
        `--${name} must be a ${isWhole ? "whole " : ""}number from ${least} to ${most}, got ${JSON.stringify(text)}`,
      );
    return value;
  };
  const hosts = number("hosts", 20);
  const scenario: Scenario = {
    ...defaultScenario,
    seed: number("seed", 1),
    hosts,
    profiles: profilesWith(number("gpu-share", 0.2)),
    durations:
      values["fixed-ms"] === undefined
        ? { kind: "lognormal", medianMs: number("stage-ms", 2_000), sigma: number("sigma", 0.6) }
        : { kind: "fixed", ms: number("fixed-ms", 0) },
    failures: failuresOf(values.fail ?? []),
    churn: { ...defaultScenario.churn, perHostHour: number("churn", 0), awayMs: number("away", 20) * 1000 },
    providers: [...defaultScenario.providers, ...(values.provider ?? [])],
  };
  if (values.server !== undefined && !URL.canParse(values.server))
    throw new UsageError(`--server must be a URL like http://127.0.0.1:8000, got ${JSON.stringify(values.server)}`);
  return {
    scenario,
    jobs: number("jobs", isPlan ? 100_000_000 : 1_000_000),
    rate: number("rate", 5),
    durationMs: isPlan ? number("duration", 24) * 3_600_000 : number("duration", 30) * 1000,
    drainMs: number("drain", 60) * 1000,
    pipeline: values.pipeline ?? "narrated-video",
    server: values.server?.replace(/\/+$/, ""),
    enrolAddress: values.enrol,
    replicas: number("replicas", 1),
    heartbeatSeconds: number("heartbeat", 5),
    processes: number("processes", Math.max(1, Math.ceil(hosts / 500))),
    protocolMax: values.protocol === undefined ? undefined : number("protocol", 2),
    reportFile: values.report,
    isQuiet: values.quiet === true,
    isPlan,
    isChecked: values.check === true,
    targetWaitMs: values["target-wait"] === undefined ? undefined : number("target-wait", 60) * 1000,
    maxRunningJobs: number("max-running", Number.MAX_SAFE_INTEGER),
  };
};

/** Least, most, whole. */
const bounds = {
  hosts: [1, 100_000, true],
  jobs: [0, 100_000_000, true],
  rate: [0, 100_000, false],
  duration: [0.1, 86_400, false],
  drain: [0, 86_400, false],
  "stage-ms": [1, 86_400_000, false],
  sigma: [0, 3, false],
  "fixed-ms": [0, 86_400_000, false],
  churn: [0, 10_000, false],
  away: [0, 86_400, false],
  "gpu-share": [0, 1, false],
  seed: [0, 4_294_967_295, true],
  replicas: [1, 3, true],
  heartbeat: [0.1, 60, false],
  processes: [1, 64, true],
  protocol: [1, 2, true],
  "target-wait": [0.1, 864_000, false],
  "max-running": [1, Number.MAX_SAFE_INTEGER, true],
} as const satisfies Record<string, readonly [number, number, boolean]>;

const parse = (args: readonly string[]) => {
  const text = { type: "string" } as const;
  const many = { type: "string", multiple: true } as const;
  const flag = { type: "boolean" } as const;
  const numbers = Object.fromEntries(Object.keys(bounds).map((name) => [name, text])) as Record<
    keyof typeof bounds,
    typeof text
  >;
  try {
    return parseArgs({
      args: [...args],
      options: {
        ...numbers,
        pipeline: text,
        fail: many,
        provider: many,
        server: text,
        enrol: text,
        report: text,
        quiet: flag,
        plan: flag,
        check: flag,
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
};

const failuresOf = (pairs: readonly string[]): Scenario["failures"] => {
  const failures: Partial<Record<FailureClass, number>> = {};
  for (const pair of pairs) {
    const [name = "", text = ""] = pair.split("=");
    const rate = Number(text);
    if (!isFailureClass(name) || text === "" || !(rate >= 0 && rate <= 1))
      throw new UsageError(
        `--fail must be CLASS=P with a class of failure and P from 0 to 1, got ${JSON.stringify(pair)}`,
      );
    failures[name] = rate;
  }
  if (Object.values(failures).reduce((sum, rate) => sum + rate, 0) > 1)
    throw new UsageError("--fail: the probabilities add up to more than 1");
  return failures;
};

/** The shares of the profiles without a GPU keep their proportion. */
const profilesWith = (gpuShare: number): Scenario["profiles"] => {
  const total = (isGpu: boolean) =>
    defaultProfiles.filter((p) => p.gpus > 0 === isGpu).reduce((sum, p) => sum + p.share, 0);
  return defaultProfiles
    .map((p) => ({
      ...p,
      share: p.gpus > 0 ? (p.share / total(true)) * gpuShare : (p.share / total(false)) * (1 - gpuShare),
    }))
    .filter((p) => p.share > 0);
};
