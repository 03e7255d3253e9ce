import { describe, expect, test } from "vitest";
import { loadPipelines, loadPrices } from "../load-data.ts";
import { checkRequest, estimateMicros, neededProviders, type Pipeline, parsePipeline, planStages } from "./pipeline.ts";

const pipelines = await loadPipelines(undefined);
const narrated = pipelines.get("narrated-video") as Pipeline;
const problems = (request: unknown): string => {
  const checked = checkRequest(narrated, request);
  return checked.ok ? "" : checked.errors.map((e) => `${e.pointer}: ${e.detail}`).join("\n");
};

describe("the pipeline narrated-video", () => {
  test("[S151] has the six stages of the requirements with their timeouts, retries and estimates", () => {
    expect(
      planStages(narrated, { script: "a" }).map((s) => [
        s.name,
        s.spec.timeoutMs / 1000,
        s.spec.retries,
        Number(s.estimatedMicros) / 1e6,
      ]),
    ).toEqual([
      ["script_generation", 60, 2, 0.4],
      ["audio_synthesis", 120, 2, 0.2],
      ["media_collection", 180, 3, 0.1],
      ["video_rendering", 300, 1, 0.3],
      ["quality_validation", 30, 1, 0.05],
      ["upload_preparation", 120, 2, 0.1],
    ]);
  });

  test("a longer script gets more time where the work grows with it", () => {
    const timeoutOf = (characters: number, name: string) =>
      planStages(narrated, { script: "x".repeat(characters) }).find((s) => s.name === name)?.spec.timeoutMs;
    expect([timeoutOf(1000, "video_rendering"), timeoutOf(3000, "video_rendering")]).toEqual([300_000, 780_000]);
    expect(timeoutOf(3000, "script_generation")).toBe(60_000);
  });

  test("[S140] is estimated at 2.00, 2.50 and 2.80 by complexity", () => {
    expect((["simple", "complex", "premium"] as const).map((c) => estimateMicros(narrated, c))).toEqual([
      2_000_000n,
      2_500_000n,
      2_800_000n,
    ]);
  });

  test("only a prompt makes a chat provider necessary", () => {
    expect(neededProviders(narrated, { prompt: "p" }).map((r) => r.setting)).toEqual(["OPENAI_API_KEY"]);
    expect(neededProviders(narrated, { prompt: "p", script: "s" })).toEqual([]);
    expect(planStages(narrated, { prompt: "p" })[0]?.spec.providers).toEqual(["openai.chat"]);
  });

  test("fills the defaults of a request", () => {
    expect(checkRequest(narrated, { script: "Hello." })).toEqual({
      ok: true,
      request: { script: "Hello.", language: "en-us", captions: true, category: "22", privacy: "private" },
    });
  });

  test.each([
    [{}, "/request: request needs one of script, prompt; none was given"],
    [{ script: "" }, "/request/script: request.script must not be empty"],
    [
      { script: " \n " },
      "/request/script: request.script must contain letters or digits; there is nothing to say in it",
    ],
    [
      { script: "?!..." },
      "/request/script: request.script must contain letters or digits; there is nothing to say in it",
    ],
    [{ script: 7 }, "/request/script: request.script must be a string, got a number"],
    [
      { script: "a", skript: "b" },
      "/request/skript: request.skript is not a field here; remove it or check its spelling",
    ],
    [
      { script: "x".repeat(200_000) },
      "/request/script: request.script must have at most 100000 characters, got 200000; shorten it",
    ],
    [
      { script: "a", privacy: "secret" },
      '/request/privacy: request.privacy must be one of private, unlisted, public, got "secret"',
    ],
    [{ script: "a", keywords: [] }, "/request/keywords: request.keywords must have 1 or more entries"],
    [{ script: "a", captions: "yes" }, "/request/captions: request.captions must be a boolean, got a string"],
    [null, "/request: request must be an object, got null"],
  ])("refuses %j with one sentence a field", (request, sentence) => expect(problems(request)).toBe(sentence));

  test("unicode, quotes and percent signs are text like any other", () => {
    expect(problems({ script: `„Füchse“ & 'quotes': 100 % – 日本語 \\ {x}`, title: "%d: it's" })).toBe("");
  });
});

describe("a pipeline file", () => {
  const minimal = {
    name: "p",
    version: 1,
    title: "P",
    estimate: { simple: 1, complex: 1, premium: 1 },
    target: { seconds: 1, cost: 1 },
    request: { type: "object" },
    stages: [
      {
        name: "a",
        kind: "noop",
        timeout: "1s",
        retries: 0,
        estimated_cost: 0,
        resources: { cores: 1, memory: "1MiB", scratch: "1MiB" },
      },
    ],
  };
  test("is refused with its path and every problem", () => {
    expect(() =>
      parsePipeline({ ...minimal, stages: [{ ...minimal.stages[0], timeout: "soon" }], colour: "red" }, "p.yaml"),
    ).toThrow(/p\.yaml: .*stages\.0\.timeout.*like 90s.*colour is not a field/);
    expect(() => parsePipeline({ ...minimal, stages: [{ ...minimal.stages[0], needs: ["later"] }] }, "p.yaml")).toThrow(
      "a needs later, which must stand before it",
    );
  });
  test("the shipped ones and the price table load", async () => {
    expect([...pipelines.keys()].sort()).toEqual(["media-merge", "narrated-video", "transcode"]);
    expect((await loadPrices(undefined)).prices.length).toBeGreaterThan(3);
    const transcode = pipelines.get("transcode") as Pipeline;
    const stages = planStages(transcode, {});
    expect(stages.filter((s) => s.openNeeds === 0).map((s) => s.name)).toEqual([
      "rendition_1080",
      "rendition_720",
      "rendition_480",
    ]);
  });

  test("media-merge has the seven stages of requirements 003 in a row, and its clean-up is given only the package", () => {
    const merge = pipelines.get("media-merge") as Pipeline;
    expect(planStages(merge, {}).map((s) => [s.name, s.spec.needs])).toEqual([
      ["upload", []],
      ["analysis", ["upload"]],
      ["preparation", ["upload", "analysis"]],
      ["merging", ["preparation"]],
      ["compression", ["merging"]],
      ["storage_upload", ["compression"]],
      ["cleanup", ["storage_upload"]],
    ]);
    expect(checkRequest(merge, { media: ["a.mp4"], height: 180 })).toEqual({
      ok: true,
      request: { media: ["a.mp4"], height: 180, fit: "pad" },
    });
    expect(checkRequest(merge, { fps: 29 }).ok).toBe(false);
    expect(checkRequest(merge, { width: 321 }).ok).toBe(false);
  });
});

describe("complexity as resource needs", () => {
  const gpuOf = (pipeline: string, stage: string) =>
    (["simple", "complex", "premium"] as const).map((complexity) => {
      const planned = planStages(pipelines.get(pipeline) as Pipeline, {}, complexity).find((s) => s.name === stage);
      const { gpu, cpuWithoutGpus } = planned?.spec.resources ?? {};
      return cpuWithoutGpus ? `${gpu}, or any host of a fleet without GPUs` : gpu;
    });

  test.each([
    ["narrated-video", "video_rendering"],
    ["transcode", "rendition_1080"],
    ["transcode", "rendition_480"],
    ["media-merge", "compression"],
  ])("[S142] [S177] %s/%s: simple asks for a CPU, complex for a GPU, premium prefers a GPU", (pipeline, stage) => {
    expect(gpuOf(pipeline, stage)).toEqual(["none", "required, or any host of a fleet without GPUs", "preferred"]);
  });

  test("a stage says what a complexity changes, and only that; the shape tells them apart", () => {
    const pipeline = parsePipeline(
      {
        name: "p",
        version: 1,
        title: "P",
        estimate: { simple: 1, complex: 1, premium: 1 },
        target: { seconds: 60, cost: 1 },
        max_running: 3,
        request: { type: "object" },
        stages: [
          {
            name: "one",
            kind: "noop",
            timeout: "60s",
            retries: 0,
            estimated_cost: 0.1,
            resources: { cores: 1, memory: "64MiB", scratch: "1MiB", gpu_memory: "1GiB" },
            by_complexity: { premium: { resources: { cores: 4, gpu: "required" } } },
          },
        ],
      },
      "p",
    );
    const [simple, premium] = [planStages(pipeline, {}, "simple")[0], planStages(pipeline, {}, "premium")[0]];
    expect(simple?.spec.resources).toMatchObject({ cores: 1, gpu: "none", gpuMemoryBytes: 0 });
    expect(premium?.spec.resources).toEqual({
      cores: 4,
      memoryBytes: 64 * 1024 ** 2,
      scratchBytes: 1024 ** 2,
      gpu: "required",
      gpuMemoryBytes: 1024 ** 3,
    });
    expect(simple?.shape).not.toBe(premium?.shape);
    expect(pipeline.max_running).toBe(3);
  });
});
