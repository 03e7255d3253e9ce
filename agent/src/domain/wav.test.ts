// Headers as espeak-ng, streaming servers and broken writers make them.
import { describe, expect, test } from "vitest";
import { readWav, wavHeader } from "./wav.ts";

const format = { sampleRate: 22_050, channels: 1, bitsPerSample: 16 };
const samples = Buffer.from([1, 0, 2, 0, 3, 0]);

describe("readWav", () => {
  test("reads back what wavHeader writes", () => {
    expect(readWav(Buffer.concat([wavHeader(format, samples.length), samples]))).toEqual({ ...format, data: samples });
  });

  for (const size of [0, 0xffffffff])
    test(`a streamed file with the data size ${size} has the bytes that are there`, () => {
      const header = wavHeader(format, 0);
      header.writeUInt32LE(size, 40);
      expect(readWav(Buffer.concat([header, samples]))?.data).toEqual(samples);
    });

  test("skips other chunks, with their padding, and drops a broken frame at the end", () => {
    const header = wavHeader(format, 5);
    const list = Buffer.concat([Buffer.from("LIST"), Buffer.from([3, 0, 0, 0]), Buffer.from("abc\0")]);
    const file = Buffer.concat([header.subarray(0, 36), list, header.subarray(36), samples.subarray(0, 5)]);
    expect(readWav(file)?.data).toEqual(samples.subarray(0, 4));
  });

  test("other things are undefined", () => {
    const float = wavHeader(format, 4);
    float.writeUInt16LE(3, 20);
    const noChannels = wavHeader({ ...format, channels: 0 }, 4);
    for (const file of [
      Buffer.alloc(0),
      Buffer.from('{"error":1}'),
      float,
      noChannels,
      wavHeader(format, 0).subarray(0, 30),
    ])
      expect(readWav(file)).toBeUndefined();
  });
});
