// The agent as a process, against a small control plane over mutual TLS: what SIGTERM means with a drain, what a second one means,
// and that an agent which was stopped by SIGSTOP commits nothing before it is confirmed.
import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Heartbeat, SessionRequest } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createLinkBed, type LinkBed, type Replica } from "./link/testing-server.ts";
import { testAllocation, testOffer, until } from "./testing.ts";

/** Not start.js: filling its cache for each test's folder takes longer than the tests. */
const door = fileURLToPath(new URL("main.ts", import.meta.url));
let bed: LinkBed;
let agent: ChildProcess | undefined;
beforeEach(async () => {
  bed = await createLinkBed();
});
afterEach(async () => {
  agent?.kill("SIGKILL");
  await bed.clear();
});

const isGone = () => agent?.exitCode !== null || agent.signalCode !== null;
const flat = (replica: Replica): NonNullable<SessionRequest["message"]>[] =>
  replica.messages.flatMap((message) =>
    message.$case === "batch" ? message.value.messages.flatMap((one) => one.message ?? []) : [message],
  );
const beats = (replica: Replica): Heartbeat[] =>
  flat(replica).flatMap((message) => (message.$case === "heartbeat" ? [message.value] : []));

/** Running one trial stage of so many seconds, with heartbeats acknowledged while `isAcknowledging`. */
const begin = async (replica: Replica, seconds: number, env: NodeJS.ProcessEnv) => {
  await bed.enrolled(replica.address);
  agent = spawn(process.execPath, [door], {
    env: { PATH: process.env.PATH, RENDERPLANE_AGENT_DIR: bed.dir, RENDERPLANE_AGENT_TRIAL_STAGES: "1", ...env },
    stdio: "ignore",
  });
  await until("it is there", () => beats(replica).length > 0, 60_000);
  const offer = testOffer("trial", {
    params: JSON.stringify({ seconds }),
    trustedMs: 60_000,
    allocation: { ...testAllocation, cores: 0.1 },
  });
  replica.say({ $case: "offer", value: offer });
  await until("it is accepted", () => flat(replica).some((message) => message.$case === "offerAnswer"));
  const answer = flat(replica).find((message) => message.$case === "offerAnswer");
  expect(answer?.value).toMatchObject({ accepted: true });
  replica.say({ $case: "start", value: offer });
  await until("it runs", () => beats(replica).at(-1)?.attempts[0]?.state === 2);
  return offer;
};

test("SIGTERM with a drain: heartbeats go on and say so, the end is delivered, then goodbye, then exit 0", async () => {
  const replica = await bed.replica();
  const offer = await begin(replica, 2, { RENDERPLANE_DRAIN_SECONDS: "30" });
  agent?.kill("SIGTERM");
  await until("heartbeats say so", () => beats(replica).at(-1)?.health?.isDraining === true);
  const before = beats(replica).length;
  await until("they go on", () => beats(replica).length > before + 3);
  expect(replica.calls.single).toEqual([]);
  await until("it has ended", isGone, 30_000);
  expect(agent?.exitCode).toBe(0);
  expect(replica.calls.single.map((end) => [end.attemptId, end.outcome])).toEqual([[offer.attemptId, 1]]);
  expect(flat(replica).at(-1)?.$case).toBe("goodbye");
}, 120_000);

test("a second SIGTERM ends the drain at once", async () => {
  const replica = await bed.replica();
  await begin(replica, 600, { RENDERPLANE_DRAIN_SECONDS: "600" });
  agent?.kill("SIGTERM");
  await until("it drains", () => beats(replica).at(-1)?.health?.isDraining === true);
  agent?.kill("SIGTERM");
  await until("it has ended", isGone, 5_000);
  expect(agent?.exitCode).toBe(143);
}, 120_000);

test("after SIGSTOP and SIGCONT the end waits until a heartbeat sent afterwards was acknowledged", async () => {
  let isAcknowledging = true;
  const replica = await bed.replica({ acknowledges: () => isAcknowledging });
  await begin(replica, 0.5, {});
  isAcknowledging = false;
  agent?.kill("SIGSTOP");
  const stopped = performance.now();
  await until("it stood still for long", () => performance.now() - stopped > 1_500);
  const before = beats(replica).length;
  agent?.kill("SIGCONT");
  await until("it beats again", () => beats(replica).length > before + 5);
  expect(replica.calls.single).toEqual([]);
  expect(beats(replica).at(-1)?.health?.unacknowledgedEnds).toBe(1);
  isAcknowledging = true;
  await until("the end arrives", () => replica.calls.single.length === 1);
}, 120_000);
