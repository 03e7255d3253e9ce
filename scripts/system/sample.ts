// The sample job of quickstart: submitted once for a folder, found again on the next run, fetched as a file and reported.
// The Idempotency-Key comes from the job's content, the folder and a count of earlier tries that did not end well, so neither
// a crash nor a second run makes a second video.
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Client } from "../../control-plane/src/cli/client.ts";
import { CliFailure, exitCodes } from "../../control-plane/src/cli/failure.ts";
import type { AcceptedJson, ArtifactJson, JobJson, Page } from "../../control-plane/src/cli/shapes.ts";

type Memory = { readonly digest: string; readonly jobId: string; readonly tries: number };

/** Answers the id of the job for this file and folder; submits it only when it must. */
export const submitSample = async (
  client: Client,
  options: { readonly dataDir: string; readonly file: string; readonly isNew: boolean },
): Promise<{ readonly jobId: string; readonly isEarlier: boolean }> => {
  const text = await readFile(options.file, "utf8");
  const digest = createHash("sha256").update(`${options.dataDir}\0${text}`).digest("hex");
  const memoryFile = join(options.dataDir, "sample.json");
  const memory = await recall(memoryFile, digest);
  if (memory && !options.isNew && (await isWorthKeeping(client, memory.jobId)))
    return { jobId: memory.jobId, isEarlier: true };
  const tries = (memory?.tries ?? 0) + 1;
  const key = JSON.stringify(`quickstart-${digest.slice(0, 32)}-${tries}`);
  const { id } = await client.post<AcceptedJson>("/api/v1/jobs", JSON.parse(text), { "idempotency-key": key });
  await writeFile(`${memoryFile}.new`, JSON.stringify({ digest, jobId: id, tries } satisfies Memory));
  await rename(`${memoryFile}.new`, memoryFile);
  return { jobId: id, isEarlier: false };
};

const recall = async (file: string, digest: string): Promise<Memory | undefined> => {
  try {
    const memory = JSON.parse(await readFile(file, "utf8")) as Memory;
    return memory.digest === digest ? memory : undefined;
  } catch {
    return undefined;
  }
};

const isWorthKeeping = async (client: Client, jobId: string): Promise<boolean> => {
  try {
    const { state } = await client.get<JobJson>(`/api/v1/jobs/${jobId}`);
    return state !== "failed" && state !== "cancelled";
  } catch (error) {
    if (error instanceof CliFailure && error.exitCode === exitCodes.notFound) return false;
    throw error;
  }
};

/** Fetches the finished video to <folder>/<job>.mp4; a file counts only when its checksum is right. */
export const fetchVideo = async (
  client: Client,
  jobId: string,
  folder: string,
): Promise<{ path: string; bytes: number }> => {
  const { items } = await client.get<Page<ArtifactJson>>(`/api/v1/jobs/${jobId}/artifacts`);
  const videos = items.filter((item) => item.name.endsWith(".mp4"));
  const video = videos.find((item) => item.stage === "upload_preparation") ?? videos.at(-1);
  if (!video) throw new Error(`the job ${jobId} has no video among its files: ${items.map((i) => i.name).join(", ")}`);
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${jobId}.mp4`);
  if ((await digestOf(path)) === video.sha256) return { path, bytes: video.size_bytes };
  const partial = `${path}.partial`;
  const response = await client.open(
    `/api/v1/jobs/${jobId}/artifacts/${video.stage}/${encodeURIComponent(video.name)}`,
    {},
    AbortSignal.timeout(600_000),
  );
  if (!response.body) throw new Error(`the video of ${jobId} came without a body`);
  const hash = createHash("sha256");
  const hashing = new Transform({
    transform: (chunk: Uint8Array, _encoding, done) => {
      hash.update(chunk);
      done(null, chunk);
    },
  });
  await pipeline(Readable.fromWeb(response.body), hashing, createWriteStream(partial));
  if (hash.digest("hex") !== video.sha256) {
    await rm(partial, { force: true });
    throw new Error(`the video of ${jobId} did not arrive whole; run this again`);
  }
  await rename(partial, path);
  return { path, bytes: video.size_bytes };
};

const digestOf = async (path: string): Promise<string | undefined> => {
  const hash = createHash("sha256");
  try {
    await pipeline(createReadStream(path), hash);
    return hash.digest("hex");
  } catch {
    return undefined;
  }
};
