// Keys of submissions: the same key and the same content answer the same job, for 24 hours. An older key is as good as new;
// its row is taken over then, or goes with its job, so there is never more than one row a job.
import type { Tx } from "./database.ts";

export type KnownKey = { readonly fingerprint: string; readonly jobId: string };

/** The job that this key already made; submissions with the same key wait for each other until the transaction ends. */
export const lockKey = async (tx: Tx, key: string): Promise<KnownKey | undefined> => {
  await tx.query(`select pg_advisory_xact_lock(hashtextextended($1, 0))`, [key]);
  return (
    await tx.query<KnownKey>(
      `select fingerprint, job_id as "jobId" from idempotency where key = $1 and created_at > clock_timestamp() - interval '24 hours'`,
      [key],
    )
  ).rows[0];
};

export const insertKey = async (tx: Tx, key: string, fingerprint: string, jobId: string): Promise<void> => {
  await tx.query(
    `insert into idempotency (key, fingerprint, job_id) values ($1, $2, $3)
     on conflict (key) do update set fingerprint = $2, job_id = $3, created_at = clock_timestamp()`,
    [key, fingerprint, jobId],
  );
};
