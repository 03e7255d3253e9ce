// For tests of the work room: a supervisor on a temporary folder with a control plane of the test's own: offers, answers, results and a small artifact
// server that speaks the real protocol over a real socket. Programs are real; "ffmpeg" may be a shell script of the test.
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type CompleteRequest,
  type CompleteResponse,
  HeldState,
  type Offer,
  type OfferAnswer,
  type Progress,
  StopReason,
  type VerdictAction,
} from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Allocation, Input, Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { type Timings, timingsOf } from "@renderplane/proto/kernel/limits.ts";
import { silentLogger } from "@renderplane/proto/kernel/process/logger.ts";
import { createHost } from "./machine/host.ts";
import { createArtifacts } from "./work/artifacts.ts";
import { openCache } from "./work/cache.ts";
import type { ControlPlane, StageContext, StageEnd, StageKind } from "./work/contract.ts";
import { createSupervisor, type SupervisorOptions } from "./work/supervisor.ts";

export const testTimings: Timings = {
  ...timingsOf(200),
  leaseMs: 20_000,
  graceMs: 1_000,
  offerMs: 2_000,
  trustMarginMs: 1_000,
  killAfterMs: 1_000,
};

export const until = async (what: string, isTrue: () => boolean, limitMs = 15_000): Promise<void> => {
  const deadline = performance.now() + limitMs;
  while (!isTrue()) {
    if (performance.now() > deadline) throw new Error(`never came true in ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};

export const testInventory: Inventory = {
  hostname: "test",
  os: "linux",
  arch: "x64",
  cpuModel: "test",
  cores: 64,
  memoryBytes: 64n * 1024n ** 3n,
  scratchBytes: 64n * 1024n ** 3n,
  gpus: [],
  ffmpegVersion: "",
  workingEncoders: [],
  stageKinds: [],
  providers: [],
  tags: [],
};

export const testAllocation: Allocation = {
  cores: 2,
  memoryBytes: 1024n,
  scratchBytes: 1024n,
  gpuUuid: "",
  gpuMemoryBytes: 0n,
  encoderSessions: 0,
};

let fences = 0n;
export const testOffer = (kind: string, more: Partial<Offer> = {}): Offer => {
  fences += 1n;
  return {
    attemptId: `a_${process.pid}-${fences}`,
    fence: fences,
    jobId: "job-1",
    stage: "stage-1",
    kind,
    number: 1,
    params: "{}",
    request: "{}",
    inputs: [],
    results: "{}",
    allocation: testAllocation,
    timeoutMs: 60_000,
    leaseMs: 20_000,
    trustedMs: 0,
    ...more,
  };
};

export const testInput = (url: string, bytes: Buffer, name = "clip.mp4", stage = ""): Input => ({
  artifact: {
    name,
    sha256: createHash("sha256").update(bytes).digest("hex"),
    sizeBytes: BigInt(bytes.length),
    mediaType: "video/mp4",
  },
  stage,
  url,
});

/** Writes a program: the runner calls it with FFmpeg's global flags, which a script ignores. */
export const writeProgram = (dir: string, name: string, script: string): string => {
  const path = join(dir, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
};

export const kindOf = (kind: string, run: (context: StageContext) => Promise<StageEnd>): StageKind => ({ kind, run });

export type TestAgent = ReturnType<typeof createTestAgent>;

/** One agent's life; call again with the same dir for the next one. */
export const createTestAgent = (
  dir: string,
  kinds: readonly StageKind[],
  more: Partial<SupervisorOptions> & { readonly control?: ControlPlane } = {},
) => {
  const answers: OfferAnswer[] = [];
  const results: CompleteRequest[] = [];
  const progress: Progress[] = [];
  let complete: ControlPlane["complete"] = async () => ({ applied: true });
  const host = more.host ?? createHost();
  const cache = openCache(join(dir, "cache"), host.bootId);
  const control: ControlPlane = {
    answerOffer: (answer) => void answers.push(answer),
    sendProgress: (message) => void progress.push(message),
    complete: async (request): Promise<CompleteResponse> => {
      const response = await complete(request);
      results.push(request);
      return response;
    },
    placeOutputs: async (request) => ({ targets: request.outputs.map(({ sha256 }) => ({ sha256, url: "" })) }),
  };
  const supervisor = createSupervisor({
    host,
    dir,
    kinds,
    inventory: testInventory,
    programs: { ffmpeg: join(dir, "ffmpeg"), ffprobe: "ffprobe", "espeak-ng": "espeak-ng" },
    control,
    artifacts: createArtifacts(cache),
    cache,
    timings: testTimings,
    log: silentLogger(),
    ...more,
  });
  const resultOf = (offer: Offer) => results.find((result) => result.attemptId === offer.attemptId);
  return {
    supervisor,
    host,
    answers,
    results,
    progress,
    resultOf,
    onComplete: (act: ControlPlane["complete"]) => {
      complete = act;
    },
    take: async (offer: Offer): Promise<OfferAnswer> => {
      supervisor.onOffer(offer);
      const isMine = (answer: OfferAnswer) => answer.attemptId === offer.attemptId;
      const before = answers.filter(isMine).length;
      await until("the offer is answered", () => answers.filter(isMine).length > before);
      const last = answers.filter(isMine).at(-1);
      if (!last) throw new Error("unreachable");
      return last;
    },
    run: async (offer: Offer): Promise<CompleteRequest> => {
      supervisor.onOffer(offer);
      await until("the offer is answered", () => answers.some((answer) => answer.attemptId === offer.attemptId));
      supervisor.onStart(offer);
      return ended(resultOf, offer);
    },
    ended: (offer: Offer) => ended(resultOf, offer),
    stateOf: (offer: Offer) => supervisor.held().find((held) => held.attemptId === offer.attemptId)?.state,
    cancel: (offer: Offer) => supervisor.onStop({ ...offer, reason: StopReason.STOP_REASON_CANCELLED }),
    giveBack: (offer: Offer) => supervisor.onStop({ ...offer, reason: StopReason.STOP_REASON_GIVE_BACK }),
    loseLease: (offer: Offer) => supervisor.onStop({ ...offer, reason: StopReason.STOP_REASON_LEASE_LOST }),
    renew: () => supervisor.onHeartbeatAck(performance.now(), []),
  };
};

const ended = async (resultOf: (offer: Offer) => CompleteRequest | undefined, offer: Offer) => {
  await until(`${offer.attemptId} is reported`, () => resultOf(offer) !== undefined);
  const result = resultOf(offer);
  if (!result) throw new Error("unreachable");
  return result;
};

export const createTestDir = (): string => {
  const dir = mkdtempSync(join(tmpdir(), "renderplane-agent-"));
  mkdirSync(join(dir, "attempts"));
  return dir;
};

/** Ends what a test left running and removes its folder. */
export const removeTestDir = async (dir: string): Promise<void> => {
  const host = createHost();
  host.endStrangers(join(dir, "attempts"), new Set());
  await until("all processes are gone", () => host.endStrangers(join(dir, "attempts"), new Set()).length === 0);
  rmSync(dir, { recursive: true, force: true });
};

export const { HELD_STATE_ACCEPTED, HELD_STATE_RUNNING, HELD_STATE_ENDED } = HeldState;

/** What a full disk throws. */
export const noSpace = (): never => {
  throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
};

export const helloAck = (verdicts: { attemptId: string; fence: bigint; action: VerdictAction }[]) => ({
  hostId: "host",
  epoch: 1n,
  // Slow: a test that nobody beats in must not look like an agent that stood still.
  heartbeatMs: 30_000,
  leaseMs: 20_000,
  verdicts,
  serverMs: 0n,
  protocol: 2,
  addresses: [],
});

/** A stage of one process. */
export const oneStep = kindOf("one", async (context) => {
  const end = await context.process("step", { program: "ffmpeg", args: [] });
  return { result: { exit: end.exitCode, stdout: end.stdout }, outputs: [] };
});
