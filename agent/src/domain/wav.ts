// Reads and writes the header of a PCM WAV file, as far as joining sentences needs it. Pure; the bytes come in and go out.
// Streamed files carry placeholder sizes (0 or 0xffffffff) in their headers: then the bytes that are there count.

export type Wav = {
  readonly sampleRate: number;
  readonly channels: number;
  readonly bitsPerSample: number;
  /** Samples as they lie in the file, whole frames only. */
  readonly data: Buffer;
};

const pcm = 1;
/** WAVE_FORMAT_EXTENSIBLE: the real format stands in the first two bytes of a GUID at byte 24. */
const extensible = 0xfffe;
export const wavHeaderBytes = 44;

/** undefined when it is no PCM WAV file. */
export const readWav = (file: Buffer): Wav | undefined => {
  if (file.length < 12 || file.toString("latin1", 0, 4) !== "RIFF" || file.toString("latin1", 8, 12) !== "WAVE")
    return undefined;
  let format: { sampleRate: number; channels: number; bitsPerSample: number } | undefined;
  for (let at = 12; at + 8 <= file.length; ) {
    const id = file.toString("latin1", at, at + 4);
    const size = file.readUInt32LE(at + 4);
    const body = file.subarray(at + 8, Math.min(file.length, at + 8 + size));
    if (id === "fmt " && body.length >= 16) {
      const tag = body.readUInt16LE(0);
      if (tag !== pcm && !(tag === extensible && body.length >= 26 && body.readUInt16LE(24) === pcm)) return undefined;
      format = {
        channels: body.readUInt16LE(2),
        sampleRate: body.readUInt32LE(4),
        bitsPerSample: body.readUInt16LE(14),
      };
    }
    if (id === "data") {
      if (format === undefined || format.channels === 0 || format.sampleRate === 0) return undefined;
      const data = size === 0 ? file.subarray(at + 8) : body;
      const frameBytes = (format.channels * format.bitsPerSample) / 8;
      if (!Number.isInteger(frameBytes) || frameBytes === 0) return undefined;
      return { ...format, data: data.subarray(0, data.length - (data.length % frameBytes)) };
    }
    // Chunks are padded to an even length.
    at += 8 + size + (size % 2);
  }
  return undefined;
};

export const wavHeader = (format: Omit<Wav, "data">, dataBytes: number): Buffer => {
  const header = Buffer.alloc(wavHeaderBytes);
  const frameBytes = (format.channels * format.bitsPerSample) / 8;
  header.write("RIFF", 0, "latin1");
  header.writeUInt32LE(wavHeaderBytes - 8 + dataBytes, 4);
  header.write("WAVEfmt ", 8, "latin1");
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(pcm, 20);
  header.writeUInt16LE(format.channels, 22);
  header.writeUInt32LE(format.sampleRate, 24);
  header.writeUInt32LE(format.sampleRate * frameBytes, 28);
  header.writeUInt16LE(frameBytes, 32);
  header.writeUInt16LE(format.bitsPerSample, 34);
  header.write("data", 36, "latin1");
  header.writeUInt32LE(dataBytes, 40);
  return header;
};
