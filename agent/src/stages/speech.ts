// Speaks the script sentence by sentence and joins the sentences, so that every sentence's time on the screen is exact and
// not estimated. espeak-ng by default (nothing leaves the host), an OpenAI-compatible speech endpoint when configured.
// Makes narration.flac (master, for the render), narration.mp3 (for people) and timings.json. Loudness is the render's.
import { open, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { failOn } from "../domain/exit.ts";
import { splitSentences } from "../domain/sentences.ts";
import { readWav, type Wav, wavHeader, wavHeaderBytes } from "../domain/wav.ts";
import { type StageContext, type StageEnd, StageFailure, type StageKind } from "../work/contract.ts";
import { chatProvider, inputOf, readRequest, type StageConfig } from "./fields.ts";
import { inParallel } from "./in-parallel.ts";
import { speak, speechLimits } from "./providers/openai.ts";
import { scriptName } from "./script.ts";

/** Silence between two sentences; espeak's own pause at the end is off (-z), so that the gap is the same everywhere. */
const gapMs = 300;
/** Words a minute, pitch and word gap: the most intelligible of what was tried. */
const espeakVoice = ["-s", "160", "-p", "45", "-g", "4"] as const;
/** A sentence of the longest allowed length takes espeak 0.1 s. */
const espeakStallMs = 20_000;
/** Calls to a paid service at the same time: polite, and enough to hide its latency. */
const speakAtOnce = 4;
/** Below this nothing was said: a voice that has no sound for the script answers with an almost empty file. */
const minSpokenMs = 50;
/** Share of the stage that goes to speaking; the rest is one encode at several hundred times real time. */
const speakingShare = 0.9;

export type Timing = { readonly text: string; readonly start_ms: number; readonly end_ms: number };

export const createSpeechStage = (config: StageConfig, limits = speechLimits): StageKind => ({
  kind: "speech",
  run: async (context) => {
    const { language } = readRequest(context);
    const script = await readFile(
      path.join(context.dir, inputOf(context, "script_generation", scriptName).path),
      "utf8",
    );
    const sentences = splitSentences(script);
    if (sentences.length === 0)
      throw new StageFailure(
        "input_invalid",
        "request.script has no word to speak. Send a text with at least one letter or number.",
      );
    const spoken =
      config.ttsProvider === "openai"
        ? await speakWithOpenai(context, config, sentences, limits)
        : await speakWithEspeak(context, sentences, language);
    const { timings, durationMs } = await joinSentences(context, sentences, spoken.files);
    await encode(context, durationMs);
    await writeFile(path.join(context.dir, "timings.json"), `${JSON.stringify(timings)}\n`);
    return endOf(durationMs, timings, spoken);
  },
});

type Spoken = { readonly files: readonly string[]; readonly provider: string; readonly voice: string };

const endOf = (durationMs: number, timings: readonly Timing[], spoken: Spoken): StageEnd => ({
  result: {
    duration: durationMs / 1000,
    sentences: timings.length,
    provider: spoken.provider,
    voice: spoken.voice,
    audio_file: "narration.mp3",
  },
  outputs: [
    { name: "narration.flac", path: "narration.flac", mediaType: "audio/flac" },
    { name: "narration.mp3", path: "narration.mp3", mediaType: "audio/mpeg" },
    { name: "timings.json", path: "timings.json", mediaType: "application/json" },
  ],
});

const stepName = (index: number): string => `speak-${String(index).padStart(4, "0")}`;
const characters = (sentences: readonly string[]): number =>
  sentences.reduce((sum, sentence) => sum + [...sentence].length, 0);

const speakWithEspeak = async (
  context: StageContext,
  sentences: readonly string[],
  language: string,
): Promise<Spoken> => {
  let done = 0;
  const files = await inParallel(sentences, context.threads, async (sentence, index) => {
    const file = `${stepName(index)}.wav`;
    const end = await context.process(stepName(index), {
      program: "espeak-ng",
      // -b 1: UTF-8, whatever the locale. The text goes through stdin: no quoting, no option can hide in it.
      args: ["-v", language, ...espeakVoice, "-z", "-b", "1", "--stdin", "-w", file],
      stdin: withoutPhonemes(sentence),
      stallMs: espeakStallMs,
    });
    if (end.exitCode !== 0) throw espeakFailure(end.exitCode ?? end.signal, end.stderr, language);
    done += 1;
    context.progress({ fraction: (speakingShare * done) / sentences.length, step: "speaking" });
    return file;
  });
  context.usage({ service: "tts", provider: "espeak", unit: "character", quantity: characters(sentences) });
  return { files, provider: "espeak", voice: language };
};

/** espeak-ng reads [[…]] as phonemes; a script means brackets. */
const withoutPhonemes = (sentence: string): string => sentence.replace(/\[(?=\[)/g, "[ ");

const espeakFailure = (exit: number | string | null, stderr: string, language: string): StageFailure => {
  const more = { evidence: stderr.slice(-4096), exit: String(exit) };
  if (exit === 127)
    return new StageFailure(
      "missing_program",
      "espeak-ng is not installed on this host. Install it with: apt-get install espeak-ng",
      more,
    );
  if (/voice does not exist/i.test(stderr))
    return new StageFailure(
      "input_invalid",
      `request.language ${JSON.stringify(language)} is no voice of espeak-ng on this host. Use one that \`espeak-ng --voices\` lists, like en-us.`,
      more,
    );
  return new StageFailure("unknown", `espeak-ng could not speak a sentence (exit ${exit}).`, more);
};

const speakWithOpenai = async (
  context: StageContext,
  config: StageConfig,
  sentences: readonly string[],
  limits: typeof speechLimits,
): Promise<Spoken> => {
  const { openai } = config;
  if (!openai)
    throw new StageFailure(
      "host_fault",
      "RENDERPLANE_TTS_PROVIDER is openai but OPENAI_API_KEY is not set on this host. Set it, or use espeak.",
    );
  const billed = chatProvider(openai.baseUrl);
  let done = 0;
  let paid = 0;
  const files = await inParallel(sentences, speakAtOnce, async (sentence, index) => {
    const file = `${stepName(index)}.wav`;
    const target = path.join(context.dir, file);
    const { bytes } = await context.once(stepName(index), async () => {
      const wav = await speak(openai, sentence, context.signal, limits);
      // The file first: once the answer is journaled nobody asks, and pays, again.
      await writeFile(target, wav, { flush: true });
      return { bytes: wav.length };
    });
    const held = await stat(target).catch(() => undefined);
    if (held?.size !== bytes)
      throw new StageFailure("transient", `The spoken sentence ${file} is no longer whole on this host. Try again.`);
    done += 1;
    paid += [...sentence].length;
    // After every sentence: what a failing attempt has bought is billed as well.
    context.usage({ service: "tts", provider: billed, unit: "character", quantity: paid });
    context.progress({ fraction: (speakingShare * done) / sentences.length, step: "speaking" });
    return file;
  });
  return { files, provider: billed, voice: openai.ttsVoice };
};

/** Joins the WAV files in order with a gap between two, one in memory at a time: 100 minutes are 260 MB. */
const joinSentences = async (
  context: StageContext,
  sentences: readonly string[],
  files: readonly string[],
): Promise<{ timings: Timing[]; durationMs: number }> => {
  const timings: Timing[] = [];
  let format: Omit<Wav, "data"> | undefined;
  let frames = 0;
  let spokenMs = 0;
  const target = await open(path.join(context.dir, "narration.wav"), "w");
  try {
    await target.write(Buffer.alloc(wavHeaderBytes));
    for (const [index, file] of files.entries()) {
      const wav = wavOf(await readFile(path.join(context.dir, file)), file, format);
      format = wav;
      const frameBytes = (wav.channels * wav.bitsPerSample) / 8;
      const toMs = (count: number): number => Math.round((count * 1000) / wav.sampleRate);
      if (index > 0) {
        const gapFrames = Math.round((gapMs * wav.sampleRate) / 1000);
        await target.write(Buffer.alloc(gapFrames * frameBytes));
        frames += gapFrames;
      }
      await target.write(wav.data);
      const startMs = toMs(frames);
      frames += wav.data.length / frameBytes;
      timings.push({ text: sentences[index] ?? "", start_ms: startMs, end_ms: toMs(frames) });
      spokenMs += toMs(wav.data.length / frameBytes);
    }
    if (format === undefined || spokenMs < minSpokenMs)
      throw new StageFailure(
        "input_invalid",
        "The voice said nothing: it has no sound for the writing of request.script. Set request.language to its language.",
      );
    const dataBytes = (frames * format.channels * format.bitsPerSample) / 8;
    await target.write(wavHeader(format, dataBytes), 0, wavHeaderBytes, 0);
    return { timings, durationMs: Math.round((frames * 1000) / format.sampleRate) };
  } finally {
    await target.close();
  }
};

const wavOf = (file: Buffer, name: string, expected: Omit<Wav, "data"> | undefined): Wav => {
  const wav = readWav(file);
  if (!wav)
    throw new StageFailure(
      "provider_bad_answer",
      `The speech in ${name} is no PCM WAV file. Check the speech provider.`,
      {
        evidence: file.subarray(0, 200).toString("utf8"),
      },
    );
  const same = (["sampleRate", "channels", "bitsPerSample"] as const).every(
    (key) => expected === undefined || expected[key] === wav[key],
  );
  if (same) return wav;
  throw new StageFailure(
    "provider_bad_answer",
    `The speech in ${name} has ${wav.sampleRate} Hz and ${wav.channels} channels, unlike the sentences before it.`,
  );
};

const encode = async (context: StageContext, durationMs: number): Promise<void> => {
  // Bit-exact and without metadata: a second try makes the same bytes, which the artifact store then holds once.
  const plain = ["-map", "0:a", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"];
  const end = await context.process("encode", {
    program: "ffmpeg",
    args: [
      ...["-loglevel", "level+warning", "-protocol_whitelist", "file", "-f", "wav", "-i", "narration.wav"],
      ...[...plain, "-c:a", "flac", "-f", "flac", "narration.flac"],
      // The copy for people: quicker search than the default, half of this stage's time for a long script otherwise.
      ...[...plain, "-c:a", "libmp3lame", "-compression_level", "7", "-q:a", "3", "-f", "mp3", "narration.mp3"],
    ],
    progress: { label: "encoding the narration", totalMs: durationMs, from: speakingShare, to: 1 },
  });
  failOn(end, "the encoding of the narration");
  for (const name of ["narration.flac", "narration.mp3"]) {
    const held = await stat(path.join(context.dir, name)).catch(() => undefined);
    if (!held?.size) throw new StageFailure("output_invalid", `FFmpeg ended well but ${name} is missing or empty.`);
  }
};
