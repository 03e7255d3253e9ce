// What a control plane says about itself while it is loaded, read from /metrics as any monitoring reads it: works with a server that
// is not ours. Counters are summed over replicas, because each event is counted by the one that published it.

export type Levels = {
  readonly queued: number;
  readonly processing: number;
  readonly completed: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly dollars: number;
};

const answerMs = 5_000;

export const readLevels = async (urls: readonly string[]): Promise<Levels> => {
  const pages = await Promise.all(
    urls.map(async (url) => {
      const response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(answerMs) }).catch(() => undefined);
      return response?.ok ? samplesOf(await response.text()) : [];
    }),
  );
  const sum = (name: string, label = "") =>
    pages.flat().reduce((total, s) => total + (s.name === name && s.labels.includes(label) ? s.value : 0), 0);
  // A level is the same on every replica.
  const level = (name: string, label: string) =>
    (pages.find((page) => page.length > 0) ?? []).find((s) => s.name === name && s.labels.includes(label))?.value ?? 0;
  return {
    queued: level("pipeline_jobs", `state="queued"`),
    processing: level("pipeline_jobs", `state="processing"`),
    completed: sum("pipeline_videos_processed_total", `status="completed"`),
    failed: sum("pipeline_videos_processed_total", `status="failed"`),
    cancelled: sum("pipeline_videos_processed_total", `status="cancelled"`),
    dollars: sum("pipeline_video_cost_dollars_sum"),
  };
};

type Sample = { readonly name: string; readonly labels: string; readonly value: number };
const samplesOf = (text: string): Sample[] =>
  text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => {
      const [, name = "", labels = "", value = ""] = /^([a-zA-Z_:]+)(\{.*\})? (\S+)/.exec(line) ?? [];
      return { name, labels, value: Number(value) };
    });
