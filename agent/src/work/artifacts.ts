// Brings an attempt's inputs into its work folder and takes its outputs out of it; between the two, the host's cache.
// Names on disk are chosen here, never by the caller. Leaves the bytes on the wire to transfer.ts and the room to cache.ts.
// Keeps: an output counts only when it is a regular file inside the work folder, and only after the store has verified it.
import { chmodSync, existsSync, lstatSync, mkdirSync, realpathSync, statSync } from "node:fs";
import { extname, join, sep } from "node:path";
import type { UploadTarget } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Artifact, Input } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { artifactNamePattern, maxOutputsPerStage } from "@renderplane/proto/kernel/limits.ts";
import { type ArtifactCache, linkOrCopy } from "./cache.ts";
import { type InputFile, type OutputFile, StageFailure } from "./contract.ts";
import { digestOf, download, type TransferOptions, upload } from "./transfer.ts";

/** Transfers of one attempt at a time: enough to hide a round trip, few enough to leave the link to others. */
const maxParallelTransfers = 4;

export type Artifacts = {
  bring(inputs: readonly Input[], workDir: string, options: TransferOptions): Promise<InputFile[]>;
  /** Digests and sizes of what a stage made. */
  describe(outputs: readonly OutputFile[], workDir: string, signal: AbortSignal): Promise<Artifact[]>;
  store(
    artifacts: readonly Artifact[],
    outputs: readonly OutputFile[],
    workDir: string,
    targets: readonly UploadTarget[],
    options: TransferOptions,
  ): Promise<void>;
};

export const createArtifacts = (cache: ArtifactCache): Artifacts => {
  // One transfer for each digest at a time: drafts are shared, two writers would spoil one.
  const busy = new Map<string, Promise<unknown>>();
  const alone = async <T>(sha256: string, act: () => Promise<T>): Promise<T> => {
    while (busy.has(sha256)) await busy.get(sha256);
    const turn = act();
    busy.set(
      sha256,
      turn.catch(() => {}),
    );
    try {
      return await turn;
    } finally {
      busy.delete(sha256);
    }
  };

  /** Makes `target` a name of the whole file. */
  const fetchOne = (input: Input, artifact: Artifact, target: string, options: TransferOptions): Promise<void> =>
    alone(artifact.sha256, async () => {
      const known = await cache.find(artifact.sha256, Number(artifact.sizeBytes));
      if (known !== undefined && (await isLinked(known, target))) return;
      const file = { ...artifact, name: nameOf(input, artifact), sizeBytes: Number(artifact.sizeBytes) };
      await download(input.url, file, cache.draftPath(artifact.sha256), options);
      // Linked before it is admitted: from there on it may be evicted at any time.
      await linkOrCopy(cache.draftPath(artifact.sha256), target);
      // The attempt has its file; a cache that cannot be written costs the next one a transfer.
      await cache.admit(artifact.sha256).catch(() => {});
    });

  return {
    bring: async (inputs, workDir, options) => {
      mkdirSync(join(workDir, "inputs"), { recursive: true, mode: 0o700 });
      return inParallel(inputs, async (input, index) => {
        const { artifact } = input;
        if (!artifact) throw new StageFailure("agent_bug", `input ${index} of the offer has no artifact`);
        const path = `inputs/${String(index).padStart(3, "0")}${safeExtension(artifact.name)}`;
        const target = join(workDir, path);
        // A replay after a restart finds it in place: it was linked only after it was verified.
        if (!existsSync(target)) await fetchOne(input, artifact, target, options);
        chmodSync(target, 0o444);
        return {
          stage: input.stage,
          name: artifact.name,
          path,
          sha256: artifact.sha256,
          sizeBytes: Number(artifact.sizeBytes),
          mediaType: artifact.mediaType,
        };
      });
    },
    describe: async (outputs, workDir, signal) => {
      if (outputs.length > maxOutputsPerStage)
        throw new StageFailure(
          "agent_bug",
          `the stage made ${outputs.length} outputs, at most ${maxOutputsPerStage} are allowed`,
        );
      const names = new Set<string>();
      return inParallel(outputs, async (output) => {
        if (!artifactNamePattern.test(output.name) || names.has(output.name))
          throw new StageFailure(
            "agent_bug",
            `the output name ${JSON.stringify(output.name)} is invalid or used twice`,
          );
        names.add(output.name);
        const path = outputPath(output, workDir);
        return {
          name: output.name,
          sha256: await digestOf(path, signal),
          sizeBytes: BigInt(statSync(path).size),
          mediaType: output.mediaType,
        };
      });
    },
    store: async (artifacts, outputs, workDir, targets, options) => {
      const urls = new Map(targets.map((target) => [target.sha256, target.url]));
      await inParallel(artifacts, async (artifact, index) => {
        const output = outputs[index];
        const url = urls.get(artifact.sha256);
        if (!output || url === undefined)
          throw new StageFailure("agent_bug", `the control plane named no place for the output ${artifact.name}`);
        const path = outputPath(output, workDir);
        const file = { ...artifact, sizeBytes: Number(artifact.sizeBytes) };
        if (url !== "") await alone(artifact.sha256, () => upload(url, file, path, options));
        // The next stage often runs on this host.
        await cache.share(artifact.sha256, path).catch(() => {});
      });
    },
  };
};

/** False when the file was evicted between its name and the link. */
const isLinked = (known: string, target: string): Promise<boolean> =>
  linkOrCopy(known, target).then(
    () => true,
    (error: unknown) => {
      if (existsSync(known)) throw error;
      return false;
    },
  );

const nameOf = (input: Input, artifact: Artifact): string =>
  input.stage === "" ? `the uploaded file ${artifact.name}` : `${artifact.name} of the stage ${input.stage}`;

/** FFmpeg is told its formats, so an extension is for people; only harmless ones pass. */
const safeExtension = (name: string): string => {
  const extension = extname(name).toLowerCase();
  return /^\.[a-z0-9]{1,8}$/.test(extension) ? extension : "";
};

const outputPath = (output: OutputFile, workDir: string): string => {
  const path = join(workDir, output.path);
  const facts = lstatSync(path, { throwIfNoEntry: false });
  if (!facts?.isFile()) throw new StageFailure("output_invalid", `the output ${output.name} was not written`);
  if (!realpathSync(path).startsWith(realpathSync(workDir) + sep))
    throw new StageFailure("agent_bug", `the output ${output.name} lies outside the work folder`);
  return path;
};

const inParallel = async <T, R>(items: readonly T[], act: (item: T, index: number) => Promise<R>): Promise<R[]> => {
  const results: R[] = [];
  let next = 0;
  const run = async () => {
    for (let index = next++; index < items.length; index = next++) {
      try {
        results[index] = await act(items[index] as T, index);
      } catch (error) {
        // The first failure decides: nothing new is begun.
        next = items.length;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(maxParallelTransfers, items.length) }, run));
  return results;
};
