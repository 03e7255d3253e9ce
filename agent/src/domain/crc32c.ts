// CRC-32C (Castagnoli), the checksum of journal records: it finds every flipped bit and every cut tail that a disk hands back as data.
// Node brings only the other CRC-32 (zlib's). Pure. Reflected polynomial 0x82f63b78, as in RFC 3720 appendix B.4.

/** Unsigned, 32 bits. */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] ?? 0);
  return (crc ^ 0xffffffff) >>> 0;
};

const table = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});
