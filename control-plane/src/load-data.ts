// Reads the data that the control plane decides with: pipelines and prices. A broken file stops the start with its name.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import { parse } from "yaml";
import { type Pipeline, parsePipeline } from "./domain/pipeline.ts";
import { type PriceTable, parsePriceTable } from "./domain/pricing.ts";

const shipped = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** The shipped pipelines, then those of `extraDir`, which win by name. */
export const loadPipelines = async (extraDir: string | undefined): Promise<ReadonlyMap<string, Pipeline>> => {
  const pipelines = new Map<string, Pipeline>();
  for (const dir of [shipped("pipelines"), ...(extraDir === undefined ? [] : [extraDir])])
    for (const file of (await namesIn(dir)).filter((name) => /\.ya?ml$/.test(name)).sort()) {
      const path = join(dir, file);
      const pipeline = await fromFile(path, (source) => parsePipeline(source, path));
      pipelines.set(pipeline.name, pipeline);
    }
  return pipelines;
};

export const loadPrices = (path: string | undefined): Promise<PriceTable> =>
  fromFile(path ?? shipped("prices.yaml"), parsePriceTable);

const namesIn = async (dir: string): Promise<string[]> => {
  try {
    return await readdir(dir);
  } catch {
    throw new ConfigError(`RENDERPLANE_PIPELINES_DIR: ${dir} is not a folder that can be read`);
  }
};

const fromFile = async <T>(path: string, read: (source: unknown) => T): Promise<T> => {
  try {
    return read(parse(await readFile(path, "utf8")));
  } catch (error) {
    throw new ConfigError(`${path} cannot be used: ${(error as Error).message}`);
  }
};
