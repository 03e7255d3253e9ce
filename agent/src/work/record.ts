// The form of one record of the journal (an entry or an end), and how damage in it is seen.
//   line 1   {"format":2,"attempt_id":…,"fence":…,"length":…,"crc32c":…} and the CRC-32C of that text: readable when the rest is not
//   line 2   `length` bytes of JSON: the message in the wire's own form, which is what is read back, and once more for people
// Keeps: a flipped bit or a cut tail is never read as data; a damaged record still says whose it was when its first line is whole.
// Format 1, the one before, was a single JSON object with the message's SHA-256. It is read and never written.
import { createHash } from "node:crypto";
import { crc32c } from "../domain/crc32c.ts";

export type Whose = { readonly attemptId: string; readonly fence: bigint };
export type Opened = { readonly message: Buffer; readonly bootId: string | undefined };

const formatVersion = 2;

export const sealRecord = (
  whose: Whose,
  message: Uint8Array,
  forPeople: object,
  more: { readonly bootId?: string } = {},
): string => {
  const body = JSON.stringify({
    ...more,
    message: Buffer.from(message).toString("base64"),
    readable: JSON.parse(
      JSON.stringify(forPeople, (_key, value) => (typeof value === "bigint" ? String(value) : value)),
    ),
  });
  const bytes = Buffer.from(body);
  const head = JSON.stringify({
    format: formatVersion,
    attempt_id: whose.attemptId,
    fence: String(whose.fence),
    length: bytes.length,
    crc32c: sumOf(bytes),
  });
  return `${head} ${sumOf(Buffer.from(head))}\n${body}\n`;
};

/** Throws when the record is cut, damaged or of a format that this version does not read. */
export const openRecord = (record: Buffer): Opened => {
  const head = readHead(record);
  if (!head) return openFirstFormat(record);
  if (head.format !== formatVersion)
    throw new Error(
      `the record has format ${String(head.format)}, this agent reads ${formatVersion} and ${formatVersion - 1}. Finish the attempt with the agent that began it.`,
    );
  const from = record.indexOf("\n") + 1;
  const body = record.subarray(from, from + Number(head.length));
  if (body.length !== head.length)
    throw new Error(`the record is cut: ${body.length} of ${String(head.length)} bytes are there`);
  if (sumOf(body) !== head.crc32c) throw new Error("the record is damaged: its checksum does not match");
  const value: unknown = JSON.parse(body.toString("utf8"));
  const { message, bootId } = fieldsOf(value);
  return { message: Buffer.from(String(message), "base64"), bootId: typeof bootId === "string" ? bootId : undefined };
};

/** Whose record it is, also when its body cannot be read; undefined when not even that is certain. */
export const whoseRecord = (record: Buffer): Whose | undefined => {
  const head = readHead(record);
  if (typeof head?.attempt_id !== "string" || typeof head.fence !== "string" || !/^\d{1,19}$/.test(head.fence))
    return undefined;
  return { attemptId: head.attempt_id, fence: BigInt(head.fence) };
};

const sumOf = (bytes: Uint8Array): string => crc32c(bytes).toString(16).padStart(8, "0");

const readHead = (record: Buffer): { readonly [field: string]: unknown } | undefined => {
  const end = record.indexOf("\n");
  const line = end < 0 ? record : record.subarray(0, end);
  const text = line.subarray(0, line.length - 9);
  if (line.length < 10 || line.subarray(line.length - 9).toString("latin1") !== ` ${sumOf(text)}`) return undefined;
  return fieldsOf(JSON.parse(text.toString("utf8")));
};

const openFirstFormat = (record: Buffer): Opened => {
  let value: { readonly [field: string]: unknown };
  try {
    value = fieldsOf(JSON.parse(record.toString("utf8")));
  } catch {
    throw new Error("the record is damaged: its first line does not match its checksum");
  }
  if (value.version !== 1) throw new Error(`the record has the unknown version ${String(value.version)}`);
  const message = Buffer.from(String(value.message), "base64");
  if (createHash("sha256").update(message).digest("hex") !== value.sha256)
    throw new Error("the record is damaged: its SHA-256 does not match");
  return { message, bootId: typeof value.bootId === "string" ? value.bootId : undefined };
};

const fieldsOf = (value: unknown): { readonly [field: string]: unknown } => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("the record is no object");
  return { ...value };
};
