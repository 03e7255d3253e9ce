// What the database says about a run when it is over: exact, from rows, by the database's clock. Reads whole tables, so it
// is for the end of a simulation and for databases that the simulation owns.
import type { Tx } from "../../control-plane/src/store/database.ts";

export type Spread = {
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
};
export type RunFacts = {
  readonly jobs: { readonly [state: string]: number };
  readonly attempts: { readonly [outcome: string]: number };
  readonly dollars: number;
  /** Seconds from the first submission to the last end. */
  readonly seconds: number;
  readonly stagesPerSecond: number;
  /** Seconds from the submission of a job to its first start. */
  readonly jobWait: Spread;
  /** Seconds from a stage being ready (or due again) to its start; first tries only. */
  readonly stageWait: Spread;
  /** Seconds from the submission of a job to its end. */
  readonly jobTime: Spread;
};

const spread = (of: string) =>
  `jsonb_build_object('count', count(*), 'p50', coalesce(percentile_cont(0.5) within group (order by ${of}), 0),
     'p95', coalesce(percentile_cont(0.95) within group (order by ${of}), 0),
     'p99', coalesce(percentile_cont(0.99) within group (order by ${of}), 0), 'max', coalesce(max(${of}), 0))`;
const seconds = (to: string, from: string) => `extract(epoch from ${to} - ${from})::float8`;

export const readFacts = async (sql: Tx): Promise<RunFacts> => {
  const one = async <T>(text: string): Promise<T> => (await sql.query<{ value: T }>(text)).rows[0]?.value as T;
  const counts = (text: string) => one<Record<string, number> | null>(text).then((value) => value ?? {});
  const jobs = await counts(
    `select jsonb_object_agg(state, n) as value from (select state, count(*) as n from jobs group by state) c`,
  );
  const attempts = await counts(
    `select jsonb_object_agg(outcome, n) as value from
       (select coalesce(outcome, state) as outcome, count(*) as n from attempts group by 1) c`,
  );
  const span = await one<number | null>(
    `select ${seconds("(select max(ended_at) from attempts)", "(select min(created_at) from jobs)")} as value`,
  );
  const dollars = await one<number | null>(`select sum(spent_micros)::float8 / 1e6 as value from jobs`);
  const jobWait = await one<Spread>(
    `select ${spread("s")} as value from (select ${seconds("min(a.started_at)", "min(j.created_at)")} as s
       from jobs j join attempts a on a.job_id = j.id where a.started_at is not null group by j.id) w`,
  );
  const stageWait = await one<Spread>(
    `select ${spread("s")} as value from (select ${seconds("a.started_at", "st.run_at")} as s
       from stages st join attempts a on a.stage_id = st.id and a.number = 1
       where st.attempts = 1 and a.started_at is not null) w`,
  );
  const jobTime = await one<Spread>(
    `select ${spread("s")} as value from (select ${seconds("ended_at", "created_at")} as s from jobs where state = 'completed') w`,
  );
  const total = span ?? 0;
  return {
    jobs,
    attempts,
    dollars: dollars ?? 0,
    seconds: total,
    stagesPerSecond: total === 0 ? 0 : (attempts.succeeded ?? 0) / total,
    jobWait,
    stageWait,
    jobTime,
  };
};
