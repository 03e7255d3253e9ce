// Speech with the real espeak-ng and FFmpeg, and against a server that speaks the speech protocol.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { wavHeader } from "../domain/wav.ts";
import { StageFailure } from "../work/contract.ts";
import type { StageConfig } from "./fields.ts";
import { type PlayedServer, playServer, type Reply } from "./providers/testing.ts";
import { createSpeechStage, type Timing } from "./speech.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./testing.ts";

const toClose: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of toClose.splice(0)) await close();
});
const contextFor = (script: string, options: TestContextOptions = {}): TestContext => {
  const made = createTestContext({ stage: "audio_synthesis", ...options });
  toClose.push(made.remove);
  made.addInput("script_generation", "script.txt", { bytes: script });
  return made;
};
const timingsOf = (made: TestContext): Timing[] =>
  JSON.parse(readFileSync(path.join(made.dir, "timings.json"), "utf8"));
const secondsOf = (made: TestContext, name: string): number =>
  Number(
    execFileSync("ffprobe", [
      "-v",
      "error",
      "-show_entries",
      "format=duration",
      "-of",
      "csv=p=0",
      path.join(made.dir, name),
    ]),
  );
const failureOf = async (run: Promise<unknown>): Promise<StageFailure> => {
  const error = await run.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StageFailure);
  return error as StageFailure;
};

describe("with espeak-ng", () => {
  const stage = createSpeechStage({ ttsProvider: "espeak" });

  test("[S157] speaks, reads the duration back, and the timings are those of the file", async () => {
    const made = contextFor("Hello there. Dr. Who costs 3.50! Bye.");
    const end = await stage.run(made.context);
    const seconds = secondsOf(made, "narration.flac");
    expect(end.result).toMatchObject({ sentences: 3, provider: "espeak", voice: "en-us", audio_file: "narration.mp3" });
    expect(Math.abs(Number(end.result.duration) - seconds)).toBeLessThan(0.002);
    expect(Math.abs(secondsOf(made, "narration.mp3") - seconds)).toBeLessThan(0.1);
    const timings = timingsOf(made);
    expect(timings.map((timing) => timing.text)).toEqual(["Hello there.", "Dr. Who costs 3.50!", "Bye."]);
    expect(timings[0]?.start_ms).toBe(0);
    for (const [index, timing] of timings.entries()) {
      expect(timing.end_ms).toBeGreaterThan(timing.start_ms);
      if (index > 0) expect(timing.start_ms - (timings[index - 1]?.end_ms ?? 0)).toBeCloseTo(300, -1);
    }
    expect(Math.abs((timings.at(-1)?.end_ms ?? 0) - seconds * 1000)).toBeLessThan(2);
    expect(end.outputs.map((output) => output.name)).toEqual(["narration.flac", "narration.mp3", "timings.json"]);
    expect(made.uses).toEqual([{ service: "tts", provider: "espeak", unit: "character", quantity: 35 }]);
    expect(made.progress.at(-1)?.fraction).toBeCloseTo(0.9);
  });

  test("there is sound in every sentence and silence between two", async () => {
    const made = contextFor("First sentence here. Second sentence here.");
    await stage.run(made.context);
    const wav = readFileSync(path.join(made.dir, "narration.wav"));
    const peak = (fromMs: number, toMs: number): number => {
      let highest = 0;
      const [from, to] = [fromMs, toMs].map((ms) => 44 + 2 * Math.floor((ms * 22_050) / 1000));
      for (let at = from ?? 0; at < (to ?? 0); at += 2) highest = Math.max(highest, Math.abs(wav.readInt16LE(at)));
      return highest;
    };
    const [first, second] = timingsOf(made);
    if (!first || !second) throw new Error("two sentences were expected");
    expect(peak(first.start_ms, first.end_ms)).toBeGreaterThan(3_000);
    expect(peak(second.start_ms, second.end_ms)).toBeGreaterThan(3_000);
    expect(peak(first.end_ms + 2, second.start_ms - 2)).toBe(0);
  });

  test("unicode, quotes, %, :, ', options and phonemes in the text are only text", async () => {
    const script =
      "-f /etc/passwd. It's 100 %: “naïve”. [[h@l]] is text. <b>bold</b> &amp; {x} \\N. 你好。 Ünïcödé 🎉.";
    const made = contextFor(script);
    await stage.run(made.context);
    expect(
      timingsOf(made)
        .map((timing) => timing.text)
        .join(" "),
    ).toBe(script);
    for (const { name, spec } of made.steps.filter((step) => step.spec.program === "espeak-ng")) {
      expect(spec.args).toEqual([..."-v en-us -s 160 -p 45 -g 4 -z -b 1 --stdin -w".split(" "), `${name}.wav`]);
      expect(spec.stdin).not.toContain("[[");
    }
  });

  test("after an agent restart nothing is spoken again and the files are the same", async () => {
    const made = contextFor("Hello there. Bye.");
    await stage.run(made.context);
    const before = readFileSync(path.join(made.dir, "narration.flac"));
    const steps = made.steps.length;
    const end = await stage.run(made.again().context);
    expect(made.steps).toHaveLength(steps);
    expect(readFileSync(path.join(made.dir, "narration.flac")).equals(before)).toBe(true);
    expect(end.result.sentences).toBe(2);
  });

  test("two hosts make the same bytes", async () => {
    const [one, two] = [contextFor("Hello there."), contextFor("Hello there.", { threads: 1 })];
    await stage.run(one.context);
    await stage.run(two.context);
    for (const name of ["narration.flac", "narration.mp3", "timings.json"])
      expect(readFileSync(path.join(one.dir, name)).equals(readFileSync(path.join(two.dir, name)))).toBe(true);
  });

  test("only punctuation is input_invalid and names request.script", async () => {
    const failure = await failureOf(stage.run(contextFor("... !!! — 🎉").context));
    expect(failure.failureClass).toBe("input_invalid");
    expect(failure.message).toContain("request.script has no word to speak");
  });

  test("an unknown voice is input_invalid and names request.language", async () => {
    const failure = await failureOf(stage.run(contextFor("Hi.", { request: { language: "xx-nowhere" } }).context));
    expect(failure.failureClass).toBe("input_invalid");
    expect(failure.message).toContain('request.language "xx-nowhere"');
  });

  test("espeak-ng missing is missing_program with the command that installs it", async () => {
    const made = contextFor("Hi.", { programs: { "espeak-ng": "/nonexistent/espeak-ng" } });
    const failure = await failureOf(stage.run(made.context));
    expect(failure.failureClass).toBe("missing_program");
    expect(failure.message).toContain("apt-get install espeak-ng");
  });

  test("a pipeline without the script is input_missing", async () => {
    const made = createTestContext({ stage: "audio_synthesis" });
    toClose.push(made.remove);
    const failure = await failureOf(stage.run(made.context));
    expect(failure.failureClass).toBe("input_missing");
    expect(failure.message).toContain("script.txt of the stage script_generation");
  });
});

describe("with an OpenAI-compatible speech endpoint", () => {
  const tone = (ms: number, rate = 24_000): Buffer => {
    const data = Buffer.alloc(Math.round((ms * rate) / 1000) * 2);
    for (let at = 0; at < data.length; at += 2) data.writeInt16LE(at % 200 < 100 ? 8_000 : -8_000, at);
    // Streaming servers do not know the length when they write the header.
    const header = wavHeader({ sampleRate: rate, channels: 1, bitsPerSample: 16 }, 0);
    header.writeUInt32LE(0xffffffff, 40);
    return Buffer.concat([header, data]);
  };
  const serve = async (reply: (count: number) => Reply): Promise<PlayedServer> => {
    let count = 0;
    const server = await playServer(() => reply(++count));
    toClose.push(server.close);
    return server;
  };
  const stageFor = (url: string) => {
    const config: StageConfig = {
      ttsProvider: "openai",
      openai: { baseUrl: `${url}/v1`, apiKey: "sk-x", scriptModel: "m", ttsModel: "tts-1", ttsVoice: "alloy" },
    };
    return createSpeechStage(config, { timeoutMs: 2_000, maxBytes: 1024 ** 2 });
  };
  const audio = (body: Buffer): Reply => ({ headers: { "content-type": "audio/wav" }, body });

  test("asks sentence by sentence, bills the characters, and is paid once across an agent restart", async () => {
    const server = await serve(() => audio(tone(400)));
    const made = contextFor("Hello there. It's 100 %.");
    const end = await stageFor(server.url).run(made.context);
    expect(server.asked.map((asked) => asked.path)).toEqual(["/v1/audio/speech", "/v1/audio/speech"]);
    expect(JSON.parse(server.asked[0]?.body ?? "")).toEqual({
      model: "tts-1",
      voice: "alloy",
      input: "Hello there.",
      response_format: "wav",
    });
    expect(end.result).toMatchObject({ duration: 1.1, sentences: 2, provider: "127.0.0.1", voice: "alloy" });
    expect(timingsOf(made)).toEqual([
      { text: "Hello there.", start_ms: 0, end_ms: 400 },
      { text: "It's 100 %.", start_ms: 700, end_ms: 1100 },
    ]);
    const again = made.again();
    await stageFor(server.url).run(again.context);
    expect(server.asked).toHaveLength(2);
    expect(again.uses).toEqual([{ service: "tts", provider: "127.0.0.1", unit: "character", quantity: 23 }]);
  });

  test("what was bought before a failure is billed", async () => {
    const server = await serve((count) =>
      count === 1 ? audio(tone(100)) : { status: 429, headers: { "retry-after": "7" }, body: {} },
    );
    const made = contextFor("Hello there. Bye.");
    const failure = await failureOf(stageFor(server.url).run(made.context));
    expect([failure.failureClass, failure.message]).toEqual([
      "provider_quota",
      expect.stringContaining("Retry-After: 7"),
    ]);
    expect(made.uses).toHaveLength(1);
  });

  const bad: readonly (readonly [string, (count: number) => Reply, string, string])[] = [
    ["JSON instead of sound", () => ({ body: { error: "no" } }), "provider_bad_answer", "no PCM WAV file"],
    [
      "sentences of different rates",
      (n) => audio(tone(100, n === 1 ? 24_000 : 16_000)),
      "provider_bad_answer",
      "unlike the sentences before",
    ],
    ["an endless body", () => "endless", "provider_bad_answer", "larger than 1048576 bytes"],
    ["500", () => ({ status: 500 }), "provider_unavailable", "HTTP 500"],
    ["no answer in time", () => "hang", "provider_unavailable", "did not answer"],
    ["silence", () => audio(tone(1)), "input_invalid", "Set request.language"],
  ];
  for (const [name, reply, failureClass, text] of bad)
    test(`${name} is ${failureClass}`, async () => {
      const server = await serve(reply);
      const failure = await failureOf(stageFor(server.url).run(contextFor("Hello there. Bye.").context));
      expect(failure.failureClass).toBe(failureClass);
      expect(failure.message).toContain(text);
    });

  test("without a key it is a fault of this host", async () => {
    const stage = createSpeechStage({ ttsProvider: "openai" });
    const failure = await failureOf(stage.run(contextFor("Hi.").context));
    expect(failure.failureClass).toBe("host_fault");
  });
});
