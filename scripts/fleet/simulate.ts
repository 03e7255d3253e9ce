// One run of the fleet simulator against a control plane, its own or a given one: hosts get identities and connect, jobs arrive, a
// line a second says how it goes, and at the end the figures and, where the database is ours, the invariants. Bounded in time:
// arrivals end after --duration, the rest after --drain. Everything that was started is stopped, also after Ctrl-C.
import { setTimeout as pause } from "node:timers/promises";
import { brokenInvariants } from "../../control-plane/src/testing/invariants.ts";
import { type Agents, openAgents, type Reading } from "./agents.ts";
import { type Submissions, submitJobs } from "./arrivals.ts";
import { type RunFacts, readFacts } from "./facts.ts";
import { type FleetBed, openFleetBed } from "./fleet-bed.ts";
import { quantiles } from "./histogram.ts";
import { enrolHosts, type HostToBe, signHosts } from "./identities.ts";
import type { Options } from "./options.ts";
import type { AgentOrder } from "./orders.ts";
import { coreShare, useOf } from "./process-use.ts";
import { hostName, inventoryOf, profilesOf } from "./scenario.ts";
import { type Levels, readLevels } from "./watch.ts";

/** More hosts than this are signed directly where that is possible: a control plane enrols 20 a second. */
const enrolledAtMost = 100;
/** Tokens are made for so many hosts at a time, the most that the API allows. */
const usesPerToken = 1_000;
const sessionsLimitMs = 120_000;

export type SimulationReport = {
  readonly seed: number;
  readonly hosts: number;
  readonly identities: "enrolled with join tokens" | "signed directly with the database's authority";
  readonly submissions: {
    readonly accepted: number;
    readonly refused: number;
    readonly failed: number;
    readonly firstError: string | null;
    readonly latencyMs: ReturnType<typeof quantiles>;
  };
  readonly levels: Levels;
  readonly agents: { readonly [counter: string]: number };
  readonly timingsMs: { readonly [timing: string]: ReturnType<typeof quantiles> };
  readonly controlPlanes: readonly { readonly name: string; readonly corePercent: number; readonly rssMb: number }[];
  readonly facts: RunFacts | null;
  /** null: the database is not ours to read. */
  readonly brokenInvariants: readonly string[] | null;
  readonly hasEnded: boolean;
};

export const simulate = async (
  options: Options,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<SimulationReport> => {
  const bed =
    options.server === undefined
      ? await openFleetBed({
          replicas: options.replicas,
          redis: options.replicas > 1,
          heartbeatSeconds: options.heartbeatSeconds,
          signal,
        })
      : undefined;
  let agents: Agents | undefined;
  try {
    const urls = bed ? bed.replicas.map((r) => r.url) : [options.server ?? ""];
    const { orders, addresses, identities } = await prepareHosts(options, bed, urls[0] ?? "", signal);
    say(`${orders.length} hosts: ${identities}; connecting`);
    agents = await openAgents({
      agents: orders,
      addresses,
      scenario: options.scenario,
      processes: options.processes,
      ...(options.protocolMax === undefined ? {} : { protocolMax: options.protocolMax }),
    });
    await agents.untilOpen(orders.length, sessionsLimitMs, signal);
    const before = await Promise.all((bed?.replicas ?? []).map((r) => useOf(r.pid())));
    const base = await readLevels(urls);
    const submissions = submitJobs({ ...options, seed: options.scenario.seed }, { urls, signal });
    const levels = await follow({ options, urls, submissions, agents, base, say, signal });
    const after = await Promise.all((bed?.replicas ?? []).map((r) => useOf(r.pid())));
    const hasEnded = levels.completed + levels.failed + levels.cancelled >= submissions.accepted();
    const last = await agents.stop();
    return {
      seed: options.scenario.seed,
      hosts: orders.length,
      identities,
      submissions: {
        accepted: submissions.accepted(),
        refused: submissions.refused(),
        failed: submissions.failed(),
        firstError: submissions.firstError() ?? null,
        latencyMs: quantiles(submissions.latency),
      },
      levels,
      ...agentFigures(last),
      controlPlanes: (bed?.replicas ?? []).map((r, i) => ({
        name: r.name,
        corePercent: Math.round(coreShare(before[i] as never, after[i] as never) * 10) / 10,
        rssMb: Math.round((after[i]?.rssBytes ?? 0) / 1e6),
      })),
      facts: bed ? await readFacts(bed.sql) : null,
      brokenInvariants: bed ? await brokenInvariants(async (text) => (await bed.sql.query(text)).rows) : null,
      hasEnded,
    };
  } finally {
    await agents?.stop();
    await bed?.stop();
  }
};

/** Identities for the scenario's hosts, at a bed or at a server that somebody else runs. */
export const prepareHosts = async (
  options: Pick<Options, "scenario" | "enrolAddress">,
  bed: FleetBed | undefined,
  url: string,
  signal: AbortSignal,
): Promise<{
  readonly orders: readonly AgentOrder[];
  readonly addresses: readonly string[];
  readonly identities: SimulationReport["identities"];
}> => {
  const { scenario } = options;
  // Names of one run at a foreign server must not be those of the last one.
  const prefix = bed ? "sim" : `sim-${Date.now().toString(36)}`;
  const profiles = profilesOf(scenario);
  const hosts: HostToBe[] = profiles.map((profile, i) => {
    const name = hostName(i, prefix);
    return { name, inventory: inventoryOf(profile, i, scenario, name) };
  });
  const isSigned = bed !== undefined && hosts.length > enrolledAtMost;
  const known = isSigned
    ? await signHosts(hosts, { sql: bed.sql, sessionAddress: bed.replicas[0]?.agentAddress ?? "" })
    : await enrolAll(hosts, url, options.enrolAddress, signal);
  const addresses = bed ? bed.replicas.map((r) => r.agentAddress) : [known[0]?.sessionAddress ?? ""];
  return {
    orders: known.map((identity, index) => ({
      index,
      name: hosts[index]?.name ?? "",
      identity,
      profile: profiles[index] as (typeof profiles)[number],
    })),
    addresses,
    identities: isSigned ? "signed directly with the database's authority" : "enrolled with join tokens",
  };
};

const enrolAll = async (hosts: readonly HostToBe[], url: string, given: string | undefined, signal: AbortSignal) => {
  const identities = [];
  for (let i = 0; i < hosts.length; i += usesPerToken) {
    const part = hosts.slice(i, i + usesPerToken);
    const response = await fetch(`${url}/api/v1/enrollments`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ max_uses: part.length, ttl_seconds: 3_600 }),
      signal,
    });
    if (!response.ok) throw new Error(`${url} gave no join token: ${response.status} ${await response.text()}`);
    const { token, command } = (await response.json()) as { token: string; command: string };
    const address = given ?? /RENDERPLANE_ENROL_ADDRESS=(\S+)/.exec(command)?.[1];
    if (address === undefined) throw new Error(`${url} does not say where hosts enrol; name it with --enrol`);
    identities.push(...(await enrolHosts(part, { address, token, signal })));
  }
  return identities;
};

/** Says a line a second until everything has ended or the time is up; answers the last levels. */
const follow = async (run: {
  readonly options: Options;
  readonly urls: readonly string[];
  readonly submissions: Submissions;
  readonly agents: Agents;
  readonly base: Levels;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}): Promise<Levels> => {
  const { options, submissions, agents, base } = run;
  let isSubmitted = false;
  const submitted = submissions.done.then(() => {
    isSubmitted = true;
  });
  const began = performance.now();
  let endAt = Number.POSITIVE_INFINITY;
  for (;;) {
    const now = await readLevels(run.urls);
    const levels: Levels = {
      ...now,
      completed: now.completed - base.completed,
      failed: now.failed - base.failed,
      cancelled: now.cancelled - base.cancelled,
      dollars: now.dollars - base.dollars,
    };
    if (!options.isQuiet)
      run.say(lineOf((performance.now() - began) / 1000, submissions.accepted(), levels, agents.read()));
    if (isSubmitted && endAt === Number.POSITIVE_INFINITY) endAt = performance.now() + options.drainMs;
    const ended = levels.completed + levels.failed + levels.cancelled;
    if (run.signal.aborted || (isSubmitted && (ended >= submissions.accepted() || performance.now() > endAt))) {
      await submitted;
      return levels;
    }
    await pause(1_000, undefined, { signal: run.signal }).catch(() => {});
  }
};

const lineOf = (seconds: number, submitted: number, levels: Levels, { meter, open, running }: Reading): string => {
  const wait = meter.histogram("firstOffer");
  return [
    `${seconds.toFixed(0).padStart(4)} s`,
    `hosts ${open}`,
    `submitted ${submitted}`,
    `queue ${levels.queued}`,
    `running ${levels.processing} jobs / ${running} stages`,
    `done ${levels.completed}`,
    `failed ${levels.failed}`,
    `wait p50 ${wait.percentile(0.5).toFixed(0)} p99 ${wait.percentile(0.99).toFixed(0)} ms`,
    `$${levels.dollars.toFixed(2)}`,
  ].join("  ");
};

const agentFigures = ({ meter, cpuMs, rssBytes }: Reading): Pick<SimulationReport, "agents" | "timingsMs"> => {
  const { counters } = meter.toJson({ open: 0, running: 0 });
  const timings = ["rtt", "connect", "firstOffer", "acceptToStart", "complete"] as const;
  return {
    agents: { ...counters, cpuMs: Math.round(cpuMs), rssMb: Math.round(rssBytes / 1e6) },
    timingsMs: Object.fromEntries(timings.map((name) => [name, quantiles(meter.histogram(name))])),
  };
};
