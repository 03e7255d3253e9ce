// The fleet as events in time, without a network: arrivals, starts, ends, retries, losses. The queue's order, the recovery rules and
// the draws are those of the system and of the simulator; hosts are those of room.ts. What the control plane takes for itself is
// two constants that were measured. A day of 10,000 hosts is some seconds of one core.
import { timingsOf } from "@renderplane/proto/kernel/limits.ts";
import type { PlannedStage } from "../../../control-plane/src/domain/pipeline.ts";
import { baseOf, maxShareMs, rankOf, shareKeysOf } from "../../../control-plane/src/domain/queue-order.ts";
import { countsAsTry, recover } from "../../../control-plane/src/domain/recovery.ts";
import { drawJob } from "../arrivals.ts";
import { createHistogram } from "../histogram.ts";
import { createRandom } from "../random.ts";
import { durationMs, failureOf, profilesOf } from "../scenario.ts";
import { createHeap, type Heap } from "./heap.ts";
import { type PlanInput, type PlanOutcome, peak, shapeAt } from "./question.ts";
import { createRoom, type PlanHost, type Taken } from "./room.ts";

/** Measured on an idle system: from ready to started over gRPC, and from an end to the next stage being ready. */
const dispatchMs = 12;
const settleMs = 6;

type Job = {
  readonly createdMs: number;
  readonly rank: number;
  readonly stages: readonly PlannedStage[];
  readonly open: Int8Array;
  readonly tries: Uint8Array;
  readonly uncounted: Uint8Array;
  left: number;
  hasBegun: boolean;
  hasEnded: boolean;
};
type Waiting = { readonly job: Job; readonly stage: number; readonly readyMs: number };
type Event =
  | { readonly atMs: number; readonly what: "arrive" }
  | { readonly atMs: number; readonly what: "ready"; readonly waiting: Waiting }
  | {
      readonly atMs: number;
      readonly what: "end";
      readonly job: Job;
      readonly stage: number;
      readonly taken: Taken;
      readonly life: number;
      readonly beganMs: number;
      readonly failureClass: string | undefined;
    }
  | { readonly atMs: number; readonly what: "lost"; readonly job: Job; readonly stage: number }
  | { readonly atMs: number; readonly what: "lose" }
  | { readonly atMs: number; readonly what: "back"; readonly host: PlanHost };

export const runPlan = (input: PlanInput): PlanOutcome => {
  const { scenario } = input;
  const random = createRandom(scenario.seed, "plan");
  const arrivals = createRandom(scenario.seed, "arrivals");
  const room = createRoom(profilesOf(scenario), scenario.providers);
  const timings = timingsOf(input.heartbeatMs);
  const events: Heap<Event> = createHeap();
  const queues = new Map<string, Heap<Waiting>>();
  /** Shapes that fit nowhere until room comes back. */
  const stuck = new Set<string>();
  const running = new Map<PlanHost, Set<Extract<Event, { what: "end" }>>>();
  const outcome = {
    jobs: { submitted: 0, completed: 0, failed: 0, late: 0 },
    stages: { succeeded: 0, failed: 0, lost: 0 },
    jobWait: createHistogram(),
    stageWait: createHistogram(),
    jobTime: createHistogram(),
    longestQueue: 0,
    coreMs: 0,
    gpuMs: 0,
  };
  let nowMs = 0;
  let count = 0;
  let openJobs = 0;
  let queued = 0;
  let processing = 0;
  let lastEndMs = 0;

  const enqueue = (waiting: Waiting) => {
    const { shape } = waiting.job.stages[waiting.stage] as PlannedStage;
    let queue = queues.get(shape);
    if (!queue) {
      queue = createHeap();
      queues.set(shape, queue);
    }
    queue.push(waiting.job.rank, waiting);
    outcome.longestQueue = Math.max(outcome.longestQueue, ++queued);
  };
  /** The head of the queue over all shapes that may still fit, as the placer passes over those that do not. */
  const head = (): { readonly shape: string; readonly queue: Heap<Waiting>; readonly first: Waiting } | undefined => {
    let best: { readonly shape: string; readonly queue: Heap<Waiting>; readonly first: Waiting } | undefined;
    let leastRank = Number.POSITIVE_INFINITY;
    for (const [shape, queue] of queues) {
      if (stuck.has(shape)) continue;
      if (queue.least() >= leastRank) continue;
      leastRank = queue.least();
      best = { shape, queue, first: queue.peek() as Waiting };
    }
    return best;
  };
  const place = () => {
    while (queued > 0) {
      const found = head();
      if (!found) return;
      const { job, stage, readyMs } = found.first;
      if (job.hasEnded) {
        found.queue.pop();
        queued--;
        continue;
      }
      const planned = job.stages[stage] as PlannedStage;
      const isHeldBack = !job.hasBegun && processing >= input.maxRunningJobs;
      const taken = isHeldBack ? undefined : room.take(planned);
      if (!taken) {
        stuck.add(found.shape);
        continue;
      }
      found.queue.pop();
      queued--;
      const beganMs = nowMs + dispatchMs;
      if (!job.hasBegun) {
        job.hasBegun = true;
        processing++;
        outcome.jobWait.record((beganMs - job.createdMs) / 1000);
      }
      if (job.tries[stage] === 0 && job.uncounted[stage] === 0) outcome.stageWait.record((beganMs - readyMs) / 1000);
      const failureClass = failureOf(scenario, random);
      const takes = durationMs(scenario, random, { kind: planned.kind, hasGpu: taken.gpu >= 0 });
      const end: Event & { what: "end" } = {
        atMs: beganMs + Math.min(takes, planned.spec.timeoutMs) + settleMs,
        what: "end",
        job,
        stage,
        taken,
        life: taken.host.life,
        beganMs,
        failureClass,
      };
      events.push(end.atMs, end);
      let here = running.get(taken.host);
      if (!here) {
        here = new Set();
        running.set(taken.host, here);
      }
      here.add(end);
    }
  };
  const freed = () => stuck.clear();

  const finishJob = (job: Job, isFailed: boolean) => {
    job.hasEnded = true;
    openJobs--;
    if (job.hasBegun) processing--;
    lastEndMs = nowMs;
    if (isFailed) outcome.jobs.failed++;
    else {
      outcome.jobs.completed++;
      const tookMs = nowMs - job.createdMs;
      outcome.jobTime.record(tookMs / 1000);
      if (tookMs > input.deadlineMs) outcome.jobs.late++;
    }
    freed();
  };
  /** By stage the places of those that need it; the same for all jobs of one plan. */
  const followers = new Map<readonly PlannedStage[], readonly (readonly number[])[]>();
  const followersOf = (stages: readonly PlannedStage[]) => {
    const known = followers.get(stages);
    if (known) return known;
    const made = stages.map(({ name }) => stages.map((_, i) => i).filter((i) => stages[i]?.spec.needs.includes(name)));
    followers.set(stages, made);
    return made;
  };
  const succeed = (job: Job, stage: number) => {
    outcome.stages.succeeded++;
    if (--job.left === 0) return finishJob(job, false);
    for (const i of followersOf(job.stages)[stage] ?? []) {
      job.open[i] = (job.open[i] ?? 0) - 1;
      if (job.open[i] === 0) enqueue({ job, stage: i, readyMs: nowMs });
    }
  };
  const notSucceed = (job: Job, stage: number, outcomeOf: "failed" | "lost", failureClass: string) => {
    outcome.stages[outcomeOf]++;
    const { spec } = job.stages[stage] as PlannedStage;
    const isCounted = countsAsTry(outcomeOf);
    if (isCounted) job.tries[stage] = (job.tries[stage] ?? 0) + 1;
    else job.uncounted[stage] = (job.uncounted[stage] ?? 0) + 1;
    const verdict = recover({
      outcome: outcomeOf,
      failureClass,
      tries: job.tries[stage] ?? 0,
      retries: spec.retries,
      backoffMs: spec.backoffMs,
      isCancelling: false,
      wasSent: true,
      uncounted: job.uncounted[stage] ?? 0,
    });
    if (verdict.action === "fail" || verdict.action === "cancelled") return finishJob(job, true);
    const atMs = nowMs + verdict.delayMs;
    events.push(atMs, { atMs, what: "ready", waiting: { job, stage, readyMs: atMs } });
  };

  const account = (taken: Taken, ms: number) => {
    outcome.coreMs += taken.cores * ms;
    if (taken.gpu >= 0) outcome.gpuMs += ms;
  };
  const nextArrival = () => {
    if (outcome.jobs.submitted >= input.jobs || input.rate <= 0) return;
    let atMs = nowMs;
    // Thinning: draws at the peak rate, of which the quiet hours keep fewer.
    do atMs += arrivals.exponential(1000 / (input.rate * peak(input.shape)));
    while (arrivals.next() * peak(input.shape) >= shapeAt(input.shape, atMs) && atMs <= input.durationMs);
    if (atMs <= input.durationMs) events.push(atMs, { atMs, what: "arrive" });
  };
  /** The clocks of the shares, as the submission moves them. */
  const shares = new Map<string, number>();
  const fairPlace = (owner: { readonly userId: string; readonly channelId: string }): number => {
    let fairMs = nowMs;
    for (const { key, gapMs } of shareKeysOf(owner)) {
      const stands = Math.max(nowMs, shares.get(key) ?? 0);
      fairMs = Math.max(fairMs, stands);
      shares.set(key, Math.min(stands + gapMs, nowMs + maxShareMs));
    }
    return fairMs;
  };
  const arrive = (job: ReturnType<typeof drawJob>) => {
    const fairMs = fairPlace({ userId: `${job.user}`, channelId: `${job.channel}` });
    const baseMs = baseOf({ nowMs, notBeforeMs: null, fairMs, deadlineMs: null, expectedMs: 0 });
    const stages = input.stagesOf(job.complexity);
    outcome.jobs.submitted++;
    openJobs++;
    const made: Job = {
      createdMs: nowMs,
      rank: Number(rankOf({ baseMs, priority: job.priority, complexity: job.complexity })),
      stages,
      open: Int8Array.from(stages, (s) => s.openNeeds),
      tries: new Uint8Array(stages.length),
      uncounted: new Uint8Array(stages.length),
      left: stages.length,
      hasBegun: false,
      hasEnded: false,
    };
    for (const [i, stage] of stages.entries())
      if (stage.openNeeds === 0) enqueue({ job: made, stage: i, readyMs: nowMs });
  };

  const { churn } = scenario;
  const nextLoss = () => {
    if (churn.perHostHour <= 0) return;
    const atMs = nowMs + random.exponential(3_600_000 / (churn.perHostHour * room.hosts.length));
    events.push(atMs, { atMs, what: "lose" });
  };
  const lose = (host: PlanHost) => {
    const isSilent = random.next() < churn.silentShare;
    if (!host.isUp || (!isSilent && random.next() < 0.5)) return;
    const detectMs = isSilent ? timings.leaseMs + timings.graceMs : 0;
    for (const end of running.get(host) ?? []) {
      account(end.taken, Math.max(0, nowMs - end.beganMs));
      events.push(nowMs + detectMs, { atMs: nowMs + detectMs, what: "lost", job: end.job, stage: end.stage });
    }
    running.delete(host);
    room.down(host);
    const awayMs = isSilent ? random.exponential(churn.awayMs) : 0;
    events.push(nowMs + awayMs, { atMs: nowMs + awayMs, what: "back", host });
  };

  if (input.rate > 0) nextArrival();
  else for (let i = 0; i < input.jobs; i++) arrive(drawJob(arrivals));
  nextLoss();
  place();
  for (let event = events.pop(); event; event = events.pop()) {
    nowMs = event.atMs;
    count++;
    if (event.what === "arrive") {
      arrive(drawJob(arrivals));
      nextArrival();
    } else if (event.what === "ready") {
      if (!event.waiting.job.hasEnded) enqueue(event.waiting);
    } else if (event.what === "end") {
      const { job, stage, taken } = event;
      // The host was lost meanwhile; its end went with it.
      if (!running.get(taken.host)?.delete(event) || taken.host.life !== event.life) continue;
      account(taken, nowMs - event.beganMs);
      room.give(taken);
      freed();
      if (!job.hasEnded)
        if (event.failureClass === undefined) succeed(job, stage);
        else notSucceed(job, stage, "failed", event.failureClass);
    } else if (event.what === "lost") {
      if (!event.job.hasEnded) notSucceed(event.job, event.stage, "lost", "host_lost");
    } else if (event.what === "lose") {
      if (nowMs < input.durationMs || openJobs > 0) {
        lose(random.pick(room.hosts));
        nextLoss();
      }
    } else {
      room.up(event.host);
      freed();
    }
    place();
  }
  const spanMs = Math.max(input.durationMs, lastEndMs);
  return {
    ...outcome,
    coreMsThere: spanMs * room.hosts.reduce((sum, h) => sum + h.profile.cores, 0),
    gpuMsThere: spanMs * room.hosts.reduce((sum, h) => sum + h.profile.gpus, 0),
    endMs: lastEndMs,
    events: count,
  };
};
