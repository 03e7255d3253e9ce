// DER, the encoding of certificates and signing requests: the few shapes that this fleet's one profile of X.509 needs.
// Node can read certificates and sign bytes but can neither write a certificate nor a request; the library that can costs an
// agent 23 MB of memory and 260 ms for one request every two days. The reader takes untrusted bytes: definite lengths in
// their shortest form only, never past the end, anything else throws RangeError. No cryptography here.

export type DerValue = {
  readonly tag: number;
  readonly content: Buffer;
  /** Tag, length and content: what a signature covers. */
  readonly raw: Buffer;
};

const encode = (tag: number, ...parts: readonly Uint8Array[]): Buffer => {
  const content = Buffer.concat(parts);
  if (content.length < 128) return Buffer.concat([Buffer.from([tag, content.length]), content]);
  const length = minimal(BigInt(content.length));
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length]), length, content]);
};

/** Big-endian bytes without leading zeros. */
const minimal = (value: bigint): Buffer => {
  const hex = value.toString(16);
  return Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex");
};

const oidBytes = (dotted: string): Buffer => {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const part of rest) {
    const group = [part & 0x7f];
    for (let left = part >>> 7; left > 0; left >>>= 7) group.unshift((left & 0x7f) | 0x80);
    bytes.push(...group);
  }
  return Buffer.from(bytes);
};

const two = (n: number): string => String(n).padStart(2, "0");

export const der = {
  sequence: (...parts: readonly Uint8Array[]): Buffer => encode(0x30, ...parts),
  set: (...parts: readonly Uint8Array[]): Buffer => encode(0x31, ...parts),
  /** Constructed, context-specific: [n] EXPLICIT. */
  explicit: (n: number, ...parts: readonly Uint8Array[]): Buffer => encode(0xa0 | n, ...parts),
  /** Primitive, context-specific: [n] IMPLICIT of a string. */
  implicit: (n: number, content: Uint8Array): Buffer => encode(0x80 | n, content),
  /** Unsigned: a leading zero is added where the first bit would read as a sign. */
  integer: (value: bigint): Buffer => {
    const bytes = minimal(value);
    return encode(0x02, (bytes[0] ?? 0) & 0x80 ? Buffer.concat([Buffer.from([0]), bytes]) : bytes);
  },
  boolean: (value: boolean): Buffer => encode(0x01, Buffer.from([value ? 0xff : 0])),
  oid: (dotted: string): Buffer => encode(0x06, oidBytes(dotted)),
  utf8: (text: string): Buffer => encode(0x0c, Buffer.from(text, "utf8")),
  octets: (content: Uint8Array): Buffer => encode(0x04, content),
  bits: (content: Uint8Array, unusedBits = 0): Buffer => encode(0x03, Buffer.from([unusedBits]), content),
  /** UTCTime until 2049, GeneralizedTime after, as RFC 5280 4.1.2.5 demands. */
  time: (at: Date): Buffer => {
    const year = at.getUTCFullYear();
    const rest = `${two(at.getUTCMonth() + 1)}${two(at.getUTCDate())}${two(at.getUTCHours())}${two(at.getUTCMinutes())}${two(at.getUTCSeconds())}Z`;
    return year < 2050
      ? encode(0x17, Buffer.from(`${two(year % 100)}${rest}`))
      : encode(0x18, Buffer.from(`${year}${rest}`));
  },
} as const;

/** Reads exactly one value; bytes after it are refused. */
export const readDer = (bytes: Uint8Array): DerValue => {
  const values = readAll(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  const [value] = values;
  if (!value || values.length !== 1) throw new RangeError(`expected one DER value, found ${values.length}`);
  return value;
};

/** The values inside a constructed value. */
export const readChildren = (value: DerValue): DerValue[] => readAll(value.content);

const readAll = (bytes: Buffer): DerValue[] => {
  const values: DerValue[] = [];
  for (let at = 0; at < bytes.length; ) {
    const { headerLength, length } = readLength(bytes, at);
    const end = at + headerLength + length;
    if (end > bytes.length) throw new RangeError("a DER value is longer than the bytes that hold it");
    values.push({
      tag: bytes[at] ?? 0,
      content: bytes.subarray(at + headerLength, end),
      raw: bytes.subarray(at, end),
    });
    at = end;
  }
  return values;
};

const readLength = (bytes: Buffer, at: number): { readonly headerLength: number; readonly length: number } => {
  const first = bytes[at + 1];
  if (first === undefined) throw new RangeError("a DER value ends before its length");
  if (first < 0x80) return { headerLength: 2, length: first };
  const count = first & 0x7f;
  // Three bytes of length are 16 MiB, far beyond any limit of this fleet.
  if (count === 0 || count > 3 || at + 2 + count > bytes.length)
    throw new RangeError("a DER length is indefinite or too long");
  const length = bytes.readUIntBE(at + 2, count);
  if (length < 0x80 || length < 1 << (8 * (count - 1)))
    throw new RangeError("a DER length is not in its shortest form");
  return { headerLength: 2 + count, length };
};
