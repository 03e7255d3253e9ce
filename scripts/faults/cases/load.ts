// Faults of many: everybody comes back at once, and readers that do not read. F47, F48. And people: a drain while work runs, F54.
import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import type { Bed } from "../bed.ts";
import { beats, type FaultCase, slackMs } from "../case.ts";
import type { RawAgent, RawSession } from "../raw-agent.ts";
import { until } from "../until.ts";

const herd = 300;
/** Enrolments at a time; each is a key, a signature and a transaction. */
const atOnce = 10;

export const loadCases: readonly FaultCase[] = [
  {
    faults: ["F48"],
    injected: `kill -9 of the control plane under ${herd} hosts that all come back at once`,
    fleet: { heartbeatSeconds: 5 },
    within: { recoverMs: 20_000 + slackMs },
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const agents: RawAgent[] = [];
      while (agents.length < herd)
        agents.push(...(await Promise.all(Array.from({ length: atOnce }, (_, n) => bed.raw(`h${agents.length + n}`)))));
      const first = await Promise.all(agents.map((agent) => stay(agent)));
      assert.equal(first.length, herd);
      await bed.kill9("control-plane");
      const starting = bed.fleet.startControlPlane();
      await until("nobody is connected any more", () => first.every((session) => session.isOver()), 30_000);
      await starting;
      const began = performance.now();
      await Promise.all(agents.map((agent) => stay(agent)));
      const recoverMs = performance.now() - began;
      const asked = performance.now();
      await bed.fleet.api("GET", "/api/v1/hosts");
      const answerMs = performance.now() - asked;
      return { detectMs: null, recoverMs, note: `the API answers in ${Math.round(answerMs)} ms right after` };
    },
  },
  {
    faults: ["F47"],
    injected: "a hundred readers of the event stream that stop reading, while fifty jobs run",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      const { hostname, port } = new URL(bed.fleet.url);
      const sockets: Socket[] = [];
      try {
        for (let n = 0; n < 100; n++) {
          const socket = connect({ host: hostname, port: Number(port) });
          socket.on("error", () => {});
          socket.write(`GET /api/v1/events HTTP/1.1\r\nHost: ${hostname}:${port}\r\nAccept: text/event-stream\r\n\r\n`);
          socket.pause();
          sockets.push(socket);
        }
        await bed.startAgent("alpha");
        const began = performance.now();
        await bed.submit("drill-0", 20);
        let worstMs = 0;
        for (let n = 0; n < 10; n++) {
          const asked = performance.now();
          await bed.fleet.api("GET", "/api/v1/jobs");
          worstMs = Math.max(worstMs, performance.now() - asked);
        }
        await bed.settled();
        return {
          detectMs: null,
          recoverMs: performance.now() - began,
          note: `slowest answer ${Math.round(worstMs)} ms`,
        };
      } finally {
        for (const socket of sockets) socket.destroy();
      }
    },
  },
  {
    faults: ["F54"],
    injected: "a drain while a stage works: once it may finish, once it is given back at the deadline",
    run: async (bed) => {
      await bed.fleet.startControlPlane();
      await bed.startAgent("alpha");
      const finish = await bed.begin("drill-3");
      const drain = (body: object) => post(bed, "/api/v1/hosts/alpha/drain", body);
      await drain({ reason: "maintenance", policy: "finish" });
      const began = performance.now();
      await until(
        "it finished",
        async () =>
          (await bed.attempts(finish.job)).some(
            (each) => each.id === finish.attempt.id && each.outcome === "succeeded",
          ),
        30_000,
      );
      await post(bed, "/api/v1/hosts/alpha/uncordon", { reason: "done" });
      await bed.settled();
      const back = await bed.begin("drill-12");
      await bed.startAgent("beta");
      await drain({ reason: "maintenance", policy: "give_back", within_seconds: 1 });
      const next = await bed.nextRunning(back.job, back.attempt);
      const recoverMs = performance.now() - began;
      assert.equal(next.host, "beta");
      await bed.settled();
      const rows = await bed.attempts(back.job);
      assert.equal(rows.find((each) => each.id === back.attempt.id)?.outcome, "interrupted");
      const [row] = await bed.fleet.sql<{ count: number }>(
        `select count(*)::int as count from attempts where outcome = 'lost'`,
      );
      assert.equal(row?.count, 0);
      return { detectMs: null, recoverMs, note: `lost 0, given back after a deadline of 1 s` };
    },
  },
];

/** A session that is there. One that is turned away at the gate comes back, a little later each time, as agents do. */
const stay = async (agent: RawAgent): Promise<RawSession> => {
  for (let pauseMs = 50; ; pauseMs = Math.min(pauseMs * 2, 2_000)) {
    const session = agent.session({ beatMs: 5_000 });
    const isOpen = await session.ack.then(
      () => true,
      () => false,
    );
    if (isOpen) return session;
    const wait = performance.now() + pauseMs * Math.random();
    await until("its turn", () => performance.now() > wait, beats(60));
  }
};

const post = async (bed: Bed, path: string, body: object): Promise<void> => {
  const answer = await bed.fleet.api("POST", path, body);
  assert.ok(answer.status < 300, `${path} was answered with ${answer.status}: ${JSON.stringify(answer.body)}`);
};
