// Version skew: the agent of the last release against today's control plane. It makes a whole video, survives being killed, and hands
// its running work to today's agent when it is upgraded in place; nothing is done twice and no invariant is broken.
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type AttemptJson, type Fleet, isOver, type JobJson, openFleet, stageOf } from "../flow/fleet.ts";
import { createProcesses, type Processes } from "../flow/processes.ts";
import { lastRelease, unpackAgent } from "./release.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const request = {
  title: "Yesterday's agent",
  script: "A short one. It was made by the last release.",
  keywords: ["forest"],
};

let fleet: Fleet;
let old: Processes;
let door = "";
beforeEach(async () => {
  fleet = await openFleet();
  old = createProcesses(fleet.dir);
  door = relative(root, await unpackAgent(await lastRelease(), join(fleet.dir, "last-release")));
});
afterEach(async () => {
  await old.end("alpha", "SIGTERM");
  await fleet.stop();
});

/** Today's control plane, and the agent of the last release on the folder of this name; the first start enrols. */
const startOld = async (name: string) => {
  if (!fleet.isAlive("control-plane")) await fleet.startControlPlane();
  const { body } = await fleet.api<{ token: string }>("POST", "/api/v1/enrollments", {});
  old.launch(name, door, {
    RENDERPLANE_AGENT_DIR: fleet.agentDir(name),
    RENDERPLANE_AGENT_NAME: name,
    RENDERPLANE_ENROL_ADDRESS: fleet.replicas[0]?.enrolAddress,
    RENDERPLANE_JOIN_TOKEN: body.token,
  });
  const deadline = performance.now() + 60_000;
  for (;;) {
    const { body: hosts } = await fleet.api<{ items: { name: string; presence: string }[] }>("GET", "/api/v1/hosts");
    if (hosts.items.some((host) => host.name === name && host.presence === "online")) return;
    if (!old.isAlive(name) || performance.now() > deadline)
      throw new Error(`the agent of the last release is not online; it said:\n${old.said(name).slice(-4000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
const rendering = (job: JobJson) => {
  const stage = stageOf(job, "video_rendering");
  return stage.state === "running" && stage.progress > 0.05;
};
const madeOnce = async (id: string) => {
  const job = await fleet.until(id, "the end", isOver, 200_000);
  expect(job.state, JSON.stringify(job.failure)).toBe("completed");
  for (const stage of job.stages) expect(stage.attempts.map((attempt) => attempt.outcome)).toEqual(["succeeded"]);
  expect(await fleet.broken()).toEqual([]);
  expect(await readdir(join(fleet.agentDir("alpha"), "attempts"))).toEqual([]);
  return job;
};
/** Kills the old agent in the middle of the render, and answers the attempt, whose programs go on without it. */
const killInTheMiddle = async (id: string): Promise<AttemptJson> => {
  const before = await fleet.until(id, "the render", rendering);
  const attempt = stageOf(before, "video_rendering").attempts.at(-1) as AttemptJson;
  await old.end("alpha", "SIGKILL");
  // The form of its journal proves that it was that agent, and not today's.
  const journal = await readFile(join(fleet.agentDir("alpha"), "attempts", attempt.id, "spec.json"), "utf8");
  expect(JSON.parse(journal)).toMatchObject({ version: 1 });
  expect(await readdir(join(fleet.agentDir("alpha"), "attempts", attempt.id))).not.toContain("result.json");
  return attempt;
};

test("the last release's agent makes a video with today's control plane, killed in the middle and started again", async () => {
  await startOld("alpha");
  const id = await fleet.submit({ request });
  const attempt = await killInTheMiddle(id);
  await startOld("alpha");
  const job = await madeOnce(id);
  expect(stageOf(job, "video_rendering").attempts.map((each) => each.id)).toEqual([attempt.id]);
}, 300_000);

test("upgraded in place, today's agent reads the journal of the last release and adopts what runs", async () => {
  await startOld("alpha");
  const id = await fleet.submit({ request });
  const attempt = await killInTheMiddle(id);
  await fleet.startAgent("alpha");
  const job = await madeOnce(id);
  expect(stageOf(job, "video_rendering").attempts.map((each) => each.id)).toEqual([attempt.id]);
}, 300_000);

test("without its history the test says what to do", async () => {
  await expect(unpackAgent("0".repeat(40), join(fleet.dir, "nothing"))).rejects.toThrow("git fetch --unshallow");
});
