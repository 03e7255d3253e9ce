// A random schedule: jobs, hosts, replicas, and one fault every few seconds, each healed before the next; then everything is healed,
// everything must end, and the checker looks. The seed decides what is done and when, not what the processes make of it, so a seed
// that failed is a strong hint and no replay.
import { type Bed, openBed } from "./bed.ts";
import { heartbeatMs, type Result } from "./case.ts";
import { until } from "./until.ts";
import { pastSince } from "./wait.ts";

type Act = { readonly name: string; readonly act: (bed: Bed, random: () => number) => Promise<void> };

const waitMs = (ms: number) => until("its time", pastSince(ms), ms + 10_000);
const pick = <T>(random: () => number, items: readonly T[]): T => {
  const item = items[Math.floor(random() * items.length)];
  if (item === undefined) throw new Error("nothing to pick from");
  return item;
};
const hosts = ["alpha", "beta"] as const;

const acts: readonly Act[] = [
  {
    name: "kill -9 of an agent",
    act: async (bed, random) => {
      const name = pick(random, hosts);
      await bed.kill9(name);
      await waitMs(random() * 3_000);
      await bed.startAgent(name);
    },
  },
  {
    name: "SIGSTOP of an agent",
    act: async (bed, random) => {
      const name = pick(random, hosts);
      bed.fleet.freeze(name);
      await waitMs(random() * heartbeatMs * 16);
      bed.fleet.thaw(name);
    },
  },
  {
    name: "kill -9 of a replica",
    act: async (bed, random) => {
      const { name } = pick(random, bed.fleet.replicas);
      await bed.kill9(name);
      await waitMs(random() * 2_000);
      await bed.fleet.startControlPlane(name);
    },
  },
  {
    name: "SIGSTOP of a replica",
    act: async (bed, random) => {
      const { name } = pick(random, bed.fleet.replicas);
      bed.fleet.freeze(name);
      await waitMs(random() * heartbeatMs * 10);
      bed.fleet.thaw(name);
    },
  },
  {
    name: "PostgreSQL restarted",
    act: async (bed, random) => {
      await bed.fleet.postgres.stop(pick(random, ["SIGINT", "SIGQUIT"] as const));
      await waitMs(random() * 3_000);
      await bed.fleet.postgres.start();
    },
  },
  {
    name: "Redis away",
    act: async (bed, random) => {
      await bed.fleet.redis.stop("SIGKILL");
      await waitMs(random() * 2_000);
      await bed.fleet.redis.start();
    },
  },
  {
    name: "Redis hung",
    act: async (bed, random) => {
      await bed.fleet.redis.freeze();
      await waitMs(random() * 2_000);
      await bed.fleet.redis.thaw();
    },
  },
  {
    name: "kill -9 of a program",
    act: async (bed) => {
      for (const host of hosts)
        for (const attempt of (await bed.processes(host)).slice(0, 1)) {
          const pids = await bed.pids(host, attempt).catch(() => undefined);
          if (pids && (await bed.processes(host)).includes(attempt)) process.kill(pids.program, "SIGKILL");
        }
    },
  },
];

export const runSchedule = async (options: {
  readonly seed: number;
  readonly faults: number;
  readonly say: (line: string) => void;
  readonly open?: Set<Bed>;
}): Promise<Result> => {
  const began = performance.now();
  const random = seeded(options.seed);
  const injected: string[] = [];
  const bed = await openBed({ replicas: 2 });
  options.open?.add(bed);
  const none = { faults: ["random"], measured: undefined, jobs: 0, jobsLost: 0, appliedTwice: 0, broken: [] };
  try {
    await bed.fleet.startControlPlanes();
    for (const name of hosts) await bed.startAgent(name);
    for (let n = 0; n < options.faults; n++) {
      // A submission whose answer was cut off may or may not have made a job; the bed answers for those it was told of.
      await bed.submit(pick(random, ["drill-0", "drill-1", "drill-3"]), 1 + Math.floor(random() * 3)).catch(() => {});
      await waitMs(1_000 + random() * 2_000);
      const { name, act } = pick(random, acts);
      injected.push(name);
      options.say(`seed ${options.seed}: ${name}`);
      await act(bed, random);
    }
    const healed = performance.now();
    await bed.settled(120_000);
    const recoverMs = performance.now() - healed;
    // A program that was killed too often fails its job, which is an end and no loss.
    const verdict = await bed.verdict(["completed", "failed"]);
    return {
      ...none,
      ...verdict,
      injected: `seed ${options.seed}: ${injected.join(", ")}`,
      measured: { detectMs: null, recoverMs },
      tookMs: performance.now() - began,
    };
  } catch (error) {
    const said = bed.fleet.replicas.map((replica) => bed.fleet.said(replica.name).slice(-600)).join("\n");
    return {
      ...none,
      injected: `seed ${options.seed}: ${injected.join(", ")}`,
      tookMs: performance.now() - began,
      error: `${error instanceof Error ? error.message : error}\n${said}`,
    };
  } finally {
    await bed.stop();
    options.open?.delete(bed);
  }
};

/** mulberry32: small, seeded, good enough to spread faults. */
const seeded = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};
