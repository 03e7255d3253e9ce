// An agent's life as a process of its own, for tests that kill it: the real supervisor on the folder given as argument,
// with the test as its control plane over Node's channel. It says what it holds and then does what it is told.
import { join } from "node:path";
import type { CompleteResponse } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import { createTestAgent, kindOf } from "./testing.ts";
import type { FromAgent, ToAgent } from "./testing-messages.ts";
import type { ControlPlane } from "./work/contract.ts";

const dir = process.argv[2] ?? "";
const say = (message: FromAgent) => process.send?.(message);
const waiting = new Map<string, (response: CompleteResponse) => void>();

/** Three real encodes one after another; the wrapper around FFmpeg writes down every start. */
const film = kindOf("film", async (context) => {
  const frames: number[] = [];
  for (const name of ["one", "two", "three"]) {
    const end = await context.process(name, {
      program: "ffmpeg",
      args: [
        ...["-loglevel", "level+info", "-re", "-f", "lavfi", "-i", "testsrc2=size=32x32:rate=10:duration=0.4"],
        ...["-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", `${name}.mkv`],
      ],
      progress: { label: name, totalMs: 400, from: 0, to: 1 },
    });
    if (end.exitCode !== 0) throw new Error(`${name}: ${end.exitCode ?? end.signal} ${end.stderr}`);
    frames.push(end.stderr.includes("video:") ? 1 : 0);
  }
  const paid = await context.once("paid", async () => {
    say({ type: "paid", attempt: context.stage });
    return 1;
  });
  return {
    result: { frames, paid },
    outputs: [{ name: "three.mkv", path: "three.mkv", mediaType: "video/x-matroska" }],
  };
});

const control: ControlPlane = {
  answerOffer: (answer) => void say({ type: "answer", answer }),
  sendProgress: () => {},
  complete: (request) =>
    new Promise((resolve) => {
      waiting.set(request.attemptId, resolve);
      say({ type: "complete", request });
    }),
  placeOutputs: async (request) => ({ targets: request.outputs.map(({ sha256 }) => ({ sha256, url: "" })) }),
};

const agent = createTestAgent(dir, [film], {
  control,
  programs: { ffmpeg: join(dir, "ffmpeg"), ffprobe: "ffprobe", "espeak-ng": "espeak-ng" },
});
await agent.supervisor.start();

process.on("message", (message: ToAgent) => {
  switch (message.type) {
    case "offer":
      return agent.supervisor.onOffer(message.offer);
    case "start":
      return agent.supervisor.onStart(message);
    case "verdicts":
      return agent.supervisor.onHelloAck(message.ack, performance.now());
    case "completed":
      return waiting.get(message.attemptId)?.({ applied: true });
  }
});
process.on("disconnect", () => process.exit(0));
say({ type: "hello", held: agent.supervisor.held() });
