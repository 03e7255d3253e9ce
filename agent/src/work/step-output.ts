// Reads what a step's program has written: bounded text for stages and evidence, and FFmpeg's progress while it runs.
// Never holds a whole log; the files stay in the step's folder while the attempt lives.
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { createProgressReader } from "../domain/progress.ts";
import type { ProcessSpec, StageContext } from "./contract.ts";

const headBytes = 16 * 1024;
const tailBytes = 256 * 1024;

/** The beginning (versions, the first cause) and the end (the last words); what lies between stays in the file. */
export const boundedText = (path: string): string => {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size <= headBytes + tailBytes) return readPart(path, 0, size);
  const left = size - headBytes - tailBytes;
  return `${readPart(path, 0, headBytes)}\n[… ${left} bytes left out …]\n${readPart(path, size - tailBytes, tailBytes)}`;
};

const readPart = (path: string, from: number, length: number): string => {
  if (length <= 0) return "";
  const descriptor = openSync(path, "r");
  try {
    const buffer = Buffer.allocUnsafe(length);
    return buffer.toString("utf8", 0, readSync(descriptor, buffer, 0, length, from));
  } finally {
    closeSync(descriptor);
  }
};

/** Follows FFmpeg's progress file; after an adoption it starts from the beginning and catches up at the first look. */
export const progressFollower = (
  path: string,
  share: NonNullable<ProcessSpec["progress"]>,
  nowMs: () => number,
  report: StageContext["progress"],
): (() => void) => {
  const reader = createProgressReader(share.totalMs);
  let offset = 0;
  return () => {
    const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    if (size <= offset) return;
    const length = Math.min(size - offset, tailBytes);
    const update = reader.push(readPart(path, offset, length), nowMs());
    offset += length;
    if (!update || share.totalMs === undefined) return;
    const width = share.to - share.from;
    report({
      fraction: share.from + width * update.fraction,
      step: share.label,
      speed: update.speed,
      ...(update.etaMs === undefined ? {} : { etaMs: stageEta(share.totalMs, update, share.to, width) }),
    });
  };
};

/** What is left of this process, and the later steps at its pace, since shares of a stage are shares of its time. */
const stageEta = (
  totalMs: number,
  update: { readonly speed: number; readonly etaMs: number | undefined },
  to: number,
  width: number,
): number => {
  const wholeMs = update.speed > 0 ? totalMs / update.speed : 0;
  return Math.round((update.etaMs ?? 0) + (width > 0 ? (wholeMs * (1 - to)) / width : 0));
};
