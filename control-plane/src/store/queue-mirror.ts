// What the mirror of the queue shows: jobs that wait, in their order, and jobs in work. Both read a partial index from its head.
import type { Tx } from "./database.ts";

export const queuedJobs = async (tx: Tx, limit: number): Promise<{ readonly id: string; readonly rank: bigint }[]> =>
  (
    await tx.query<{ id: string; rank: bigint }>(
      `select id, rank from jobs where state = 'queued' order by rank, id limit $1`,
      [limit],
    )
  ).rows;

export const processingJobs = async (tx: Tx, limit: number): Promise<string[]> =>
  (await tx.query<{ id: string }>(`select id from jobs where state = 'processing' limit $1`, [limit])).rows.map(
    (row) => row.id,
  );
