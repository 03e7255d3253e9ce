// Names of artifacts inside a job: the caller's uploads (stage "") and the outputs of attempts, by fence. Only the files of
// the fence that a stage published count; the rest is waste of lost attempts.
import type { FileRow } from "../domain/records.ts";
import type { Tx } from "./database.ts";

export type NamedArtifact = {
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
};

/** Records that the store holds these bytes. Holds the rows that are there already, so that retention does not take one away now. */
export const recordArtifacts = async (
  tx: Tx,
  artifacts: readonly { readonly sha256: string; readonly sizeBytes: number }[],
): Promise<void> => {
  if (artifacts.length === 0) return;
  await tx.query(
    `insert into artifacts (sha256, size_bytes) select * from unnest($1::text[], $2::bigint[]) as a(sha256, size_bytes)
     group by 1, 2 order by 1 on conflict (sha256) do update set size_bytes = excluded.size_bytes where false`,
    [artifacts.map((a) => a.sha256), artifacts.map((a) => a.sizeBytes)],
  );
};

/** `stage` "" and fence 0 for the caller's uploads. */
export type NewFile = Omit<NamedArtifact, "sizeBytes"> & {
  readonly jobId: string;
  readonly stage: string;
  readonly fence: bigint;
};
export const insertFiles = async (tx: Tx, files: readonly NewFile[]): Promise<void> => {
  if (files.length === 0) return;
  await tx.query(
    `insert into files (job_id, stage, fence, name, sha256, media_type)
     select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[]) on conflict do nothing`,
    [
      files.map((f) => f.jobId),
      files.map((f) => f.stage),
      files.map((f) => f.fence),
      files.map((f) => f.name),
      files.map((f) => f.sha256),
      files.map((f) => f.mediaType),
    ],
  );
};

/** Uploads, and the outputs of stages that succeeded. */
export const listFiles = async (tx: Tx, jobIds: readonly string[]): Promise<FileRow[]> =>
  (
    await tx.query<FileRow>(
      `select f.job_id as "jobId", f.stage, f.name, f.sha256, a.size_bytes as "sizeBytes", f.media_type as "mediaType"
       from files f join artifacts a using (sha256)
       left join stages s on s.job_id = f.job_id and s.name = f.stage
       where f.job_id = any($1::text[]) and (f.stage = '' or f.fence = s.output_fence)
       order by f.job_id, coalesce(s.position, -1), f.name`,
      [jobIds],
    )
  ).rows;
