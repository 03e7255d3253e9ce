// The checksum gives the published values and sees every single flipped bit.
import fc from "fast-check";
import { expect, test } from "vitest";
import { crc32c } from "./crc32c.ts";

test.each([
  ["", 0],
  ["123456789", 0xe3069283],
  ["\0".repeat(32), 0x8a9136aa],
])("of %j is %d, as published in RFC 3720 and by everybody since", (text, sum) => {
  expect(crc32c(Buffer.from(text, "latin1"))).toBe(sum);
});

test("any flipped bit changes it", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 200 }), fc.nat(), (bytes, at) => {
      const flipped = Uint8Array.from(bytes);
      const bit = at % (bytes.length * 8);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(crc32c(flipped)).not.toBe(crc32c(bytes));
    }),
  );
});
