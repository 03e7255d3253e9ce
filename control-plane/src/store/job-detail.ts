// Everything about one job in one read, for people: the job, its stages, attempts, costs and place in the queue.
import type { JobDetail } from "../domain/records.ts";
import { listAttempts } from "./attempts.ts";
import type { Tx } from "./database.ts";
import { queuePosition, readJob } from "./jobs.ts";
import { costsOf } from "./ledger.ts";
import { listStages } from "./stages.ts";

export const readJobDetail = async (tx: Tx, id: string): Promise<JobDetail | undefined> => {
  const job = await readJob(tx, id);
  if (!job) return undefined;
  const stages = await listStages(tx, job.id);
  const attempts = await listAttempts(tx, job.id);
  const { rows } = await tx.query<{ id: string; name: string }>(
    `select id, name from hosts where id = any($1::text[])`,
    [[...new Set(attempts.map((a) => a.hostId))]],
  );
  return {
    job,
    stages,
    attempts,
    costs: await costsOf(tx, job.id),
    hostNames: new Map(rows.map((row) => [row.id, row.name])),
    position: await queuePosition(tx, job.id),
  };
};
