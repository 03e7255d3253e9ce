// What a story reads of the API's answers, and two questions about them. Only the fields that stories look at.

/** What a story reads of the API's answers. */
export type FailureJson = {
  readonly class: string;
  readonly severity: string;
  readonly stage: string;
  readonly message: string;
};
export type AttemptJson = { readonly id: string; readonly host: string; readonly outcome: string | null };
export type StageJson = {
  readonly name: string;
  readonly state: string;
  readonly progress: number;
  readonly result: { readonly [key: string]: unknown } | null;
  readonly attempts: readonly AttemptJson[];
};
export type JobJson = {
  readonly id: string;
  readonly state: string;
  readonly failure: FailureJson | null;
  readonly held_cost: number;
  readonly actual_cost: number;
  readonly stages: readonly StageJson[];
};
export type ArtifactJson = {
  readonly stage: string;
  readonly name: string;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly url: string;
};
export type Answer<T> = { readonly status: number; readonly body: T; readonly headers: Headers };
export type Body = { readonly [key: string]: unknown };
export type Media = { readonly name: string; readonly bytes: Uint8Array };
export const isOver = (job: JobJson): boolean => ["completed", "failed", "cancelled"].includes(job.state);
export const stageOf = (job: JobJson, name: string): StageJson => {
  const found = job.stages.find((stage) => stage.name === name);
  if (!found) throw new Error(`job ${job.id} has no stage ${name}`);
  return found;
};
