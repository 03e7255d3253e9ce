// What a disk can do to the journal: flipped bits, cut tails, records of the release before, and no space at all. Whatever is damaged
// is seen, everything else survives, and what was lost is said.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CompleteRequest, Offer, Outcome, Refusal } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createHost } from "../machine/host.ts";
import { markedProcesses } from "../machine/proc.ts";
import { markerName } from "../machine/process.ts";
import {
  createTestAgent,
  createTestDir,
  HELD_STATE_ENDED,
  kindOf,
  noSpace,
  oneStep,
  removeTestDir,
  type TestAgent,
  testOffer,
  until,
  writeProgram,
} from "../testing.ts";
import { openRecord, sealRecord, whoseRecord } from "./record.ts";

let dir = "";
let agents: TestAgent[] = [];
beforeEach(() => {
  dir = createTestDir();
  agents = [];
});
afterEach(async () => {
  for (const agent of agents) await agent.supervisor.stop();
  await removeTestDir(dir);
});
const start = async (kinds = [oneStep], more: Parameters<typeof createTestAgent>[2] = {}) => {
  const agent = createTestAgent(dir, kinds, more);
  agents.push(agent);
  await agent.supervisor.start();
  return agent;
};
const away = async () => {
  throw new RenderplaneError("unavailable", "down");
};
const fileOf = (offer: Offer, name: string) => join(dir, "attempts", offer.attemptId, name);
const flip = (path: string, at: number) => {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 0x10;
  writeFileSync(path, bytes);
};

describe("a record", () => {
  const whose = { attemptId: "a_1", fence: 9_007_199_254_740_993n };
  const sealed = Buffer.from(sealRecord(whose, Buffer.from("message"), { text: "für Menschen" }, { bootId: "boot" }));

  test("gives back what was put in", () => {
    expect(openRecord(sealed)).toEqual({ message: Buffer.from("message"), bootId: "boot" });
    expect(whoseRecord(sealed)).toEqual(whose);
  });

  test("with any bit flipped is refused or unchanged in what it says, and never says another owner", () => {
    fc.assert(
      fc.property(fc.nat(sealed.length * 8 - 1), (bit) => {
        const flipped = Buffer.from(sealed);
        flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        // The line feed at the very end is outside of everything.
        if (bit >> 3 < sealed.length - 1) expect(() => openRecord(flipped)).toThrow();
        expect([undefined, whose]).toContainEqual(whoseRecord(flipped));
      }),
      { numRuns: 500 },
    );
  });

  test("cut anywhere is refused", () => {
    for (let length = 0; length < sealed.length - 1; length++)
      expect(() => openRecord(sealed.subarray(0, length))).toThrow();
  });
});

describe("after a restart", () => {
  test("a damaged end is reported as lost work, the others as they were", async () => {
    writeProgram(dir, "ffmpeg", "exit 0");
    const first = await start();
    first.onComplete(away);
    const offers = [testOffer("one"), testOffer("one"), testOffer("one")] as const;
    for (const offer of offers) {
      await first.take(offer);
      first.supervisor.onStart(offer);
    }
    await until("all wait", () => offers.every((offer) => first.stateOf(offer) === HELD_STATE_ENDED));
    await first.supervisor.stop();
    const [flipped, cut, whole] = offers;
    flip(fileOf(flipped, "result.json"), 400);
    truncateSync(fileOf(cut, "result.json"), statSync(fileOf(cut, "result.json")).size - 20);
    const second = await start();
    for (const offer of [flipped, cut])
      expect(await second.ended(offer)).toMatchObject({
        fence: offer.fence,
        outcome: Outcome.OUTCOME_FAILED,
        failure: { failureClass: "host_fault" },
      });
    expect((await second.ended(whole)).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
    await until("all are answered", () => second.supervisor.held().length === 0);
    expect(readdirSync(join(dir, "dead")).sort()).toEqual([flipped.attemptId, cut.attemptId].sort());
  });

  test("a damaged entry of running work is ended and reported, once the first line still says whose it was", async () => {
    writeProgram(dir, "ffmpeg", `touch ${dir}/started; sleep 60`);
    const first = await start();
    const [bad, worse, good] = [testOffer("one"), testOffer("one"), testOffer("one")];
    for (const offer of [bad, worse, good]) await first.take(offer);
    first.supervisor.onStart(bad);
    await until("it runs", () => existsSync(join(dir, "started")));
    await first.supervisor.stop();
    flip(fileOf(bad, "spec.json"), statSync(fileOf(bad, "spec.json")).size - 50);
    flip(fileOf(worse, "spec.json"), 30);
    mkdirSync(join(dir, "attempts", "no-spec"));
    const second = createTestAgent(dir, [oneStep]);
    agents.push(second);
    let left = -1;
    second.onComplete(async () => {
      left = markedProcesses(markerName, join(dir, "attempts")).length;
      return { applied: true };
    });
    await second.supervisor.start();
    expect((await second.ended(bad)).failure?.message).toContain("damaged");
    expect(left).toBe(0);
    expect(second.supervisor.held().map((held) => held.attemptId)).toEqual([good.attemptId]);
    expect(readdirSync(join(dir, "dead")).sort()).toEqual([bad.attemptId, worse.attemptId, "no-spec"].sort());
    // Work files may be gigabytes, and twenty folders are kept.
    expect(existsSync(join(dir, "dead", bad.attemptId, "work"))).toBe(false);
  });

  test("a whole end counts although its entry is damaged", async () => {
    writeProgram(dir, "ffmpeg", "exit 0");
    const first = await start();
    first.onComplete(away);
    const offer = testOffer("one");
    await first.take(offer);
    first.supervisor.onStart(offer);
    await until("it waits", () => first.stateOf(offer) === HELD_STATE_ENDED);
    await first.supervisor.stop();
    flip(fileOf(offer, "spec.json"), 10);
    const second = await start();
    expect((await second.ended(offer)).outcome).toBe(Outcome.OUTCOME_SUCCEEDED);
  });

  test("records of the release before are read, entry and end", async () => {
    const firstFormat = (message: Uint8Array, more: object) =>
      JSON.stringify({
        version: 1,
        ...more,
        message: Buffer.from(message).toString("base64"),
        sha256: createHash("sha256").update(message).digest("hex"),
        readable: {},
      });
    const [accepted, ended] = [testOffer("one"), testOffer("one")];
    const host = createHost();
    for (const offer of [accepted, ended]) {
      mkdirSync(join(dir, "attempts", offer.attemptId, "work"), { recursive: true });
      writeFileSync(fileOf(offer, "spec.json"), firstFormat(Offer.encode(offer).finish(), { bootId: host.bootId }));
    }
    const end: CompleteRequest = {
      attemptId: ended.attemptId,
      fence: ended.fence,
      outcome: Outcome.OUTCOME_SUCCEEDED,
      result: '{"from":"before"}',
      outputs: [],
      failure: undefined,
      usage: [],
      elapsedMs: 5n,
    };
    writeFileSync(fileOf(ended, "result.json"), firstFormat(CompleteRequest.encode(end).finish(), {}));
    const agent = await start();
    expect(await agent.ended(ended)).toEqual(end);
    expect(agent.supervisor.held().map((held) => held.attemptId)).toEqual([accepted.attemptId]);
  });
});

describe("without room", () => {
  test("a journal full of ends that nobody acknowledges refuses offers, keeps what runs, and drops no end", async () => {
    writeProgram(dir, "ffmpeg", `while [ ! -e ${dir}/go ]; do sleep 0.05; done`);
    const quick = kindOf("quick", async () => ({ result: {}, outputs: [] }));
    const agent = await start([oneStep, quick], { journalLimits: { ends: 2, bytes: 1_000_000 } });
    agent.onComplete(away);
    const long = testOffer("one");
    await agent.take(long);
    agent.supervisor.onStart(long);
    const ends = [testOffer("quick"), testOffer("quick")];
    for (const offer of ends) {
      await agent.take(offer);
      agent.supervisor.onStart(offer);
    }
    await until("two wait", () => agent.supervisor.pressure().unacknowledgedEnds === 2);
    expect(await agent.take(testOffer("quick"))).toMatchObject({
      accepted: false,
      refusal: Refusal.REFUSAL_JOURNAL_FULL,
    });
    writeFileSync(join(dir, "go"), "");
    await until("the third end is kept too", () => agent.supervisor.pressure().unacknowledgedEnds === 3);
    agent.onComplete(async () => ({ applied: true }));
    await until("all are answered", () => agent.supervisor.held().length === 0, 30_000);
    expect(agent.results.map((result) => result.attemptId).sort()).toEqual(
      [long, ...ends].map((offer) => offer.attemptId).sort(),
    );
    expect((await agent.take(testOffer("quick"))).accepted).toBe(true);
  });

  test("the bytes of the ends count as well as their number", async () => {
    const wordy = kindOf("wordy", async () => ({ result: { text: "x".repeat(5_000) }, outputs: [] }));
    const agent = await start([wordy], { journalLimits: { ends: 100, bytes: 5_000 } });
    agent.onComplete(away);
    const offer = testOffer("wordy");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it waits", () => agent.supervisor.pressure().unacknowledgedEnds === 1);
    expect(await agent.take(testOffer("wordy"))).toMatchObject({ refusal: Refusal.REFUSAL_JOURNAL_FULL });
  });

  test("on a full disk the reserve makes room for the end, and is taken again when there is room", async () => {
    const host = createHost();
    const reserve = join(dir, "reserve");
    let heldAtWrite: boolean | undefined;
    const writeDurable = (path: string, text: string) => {
      if (!path.endsWith("result.json")) return host.disk.writeDurable(path, text);
      if (existsSync(reserve)) return noSpace();
      heldAtWrite = false;
      return host.disk.writeDurable(path, text);
    };
    const quick = kindOf("quick", async () => ({ result: {}, outputs: [] }));
    const agent = await start([quick], { host: { ...host, disk: { ...host.disk, writeDurable } } });
    expect(statSync(reserve).size).toBe(1024 * 1024);
    agent.onComplete(away);
    const offer = testOffer("quick");
    await agent.take(offer);
    agent.supervisor.onStart(offer);
    await until("it is journaled", () => existsSync(fileOf(offer, "result.json")));
    expect(heldAtWrite).toBe(false);
    expect(statSync(reserve).size).toBe(1024 * 1024);
  });
});

test("F27: a scratch disk that really fills up fails the stage as disk_full, and the end is journaled and delivered", async () => {
  const small = join(dir, "small");
  mkdirSync(small);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "none", small], { stdio: "ignore" });
  } catch {
    // Not allowed here: the test above fills the disk by its errors; this one then runs on a disk with room and proves the rest.
  }
  const isSmall = readFileSync("/proc/mounts", "utf8").includes(small);
  try {
    const host = createHost();
    const roomy = { ...host, disk: { ...host.disk, freeBytes: async () => 2 ** 40 } };
    mkdirSync(join(small, "attempts"));
    const filler = kindOf("filler", async (context) => {
      if (!isSmall) noSpace();
      for (let n = 0; n < 100; n++) writeFileSync(join(context.dir, `${n}.bin`), Buffer.alloc(256 * 1024, 1));
      return { result: {}, outputs: [] };
    });
    const agent = createTestAgent(small, [filler], { host: roomy });
    await agent.supervisor.start();
    let journaled = false;
    agent.onComplete(async (request) => {
      journaled = existsSync(join(small, "attempts", request.attemptId, "result.json"));
      return { applied: true };
    });
    const end = await agent.run(testOffer("filler"));
    await agent.supervisor.stop();
    expect(end.failure?.failureClass).toBe("disk_full");
    expect(journaled).toBe(true);
  } finally {
    if (isSmall) execFileSync("umount", [small]);
  }
});
