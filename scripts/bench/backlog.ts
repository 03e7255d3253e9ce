// A queue of any depth, written by statements: the rows are those that a submission writes (job, stages, event), only many at a
// time. A backlog that stands there has been published long ago; what is refilled while a benchmark runs has not.
import { parse } from "yaml";
import { parsePipeline, planStages } from "../../control-plane/src/domain/pipeline.ts";
import { rankOf } from "../../control-plane/src/domain/queue-order.ts";
import type { Tx } from "../../control-plane/src/store/database.ts";
import { benchPipelines } from "../fleet/bench-pipelines.ts";

/** Rows of one statement: seconds, and memory of the server that does not grow with the depth. */
const chunk = 20_000;

export type Backlog = {
  /** `isPublished`: the events of these jobs went out before anybody measured. */
  readonly add: (count: number, isPublished: boolean) => Promise<void>;
  readonly added: () => number;
};

export const createBacklog = (sql: Tx): Backlog => {
  const name = "bench-noop";
  const pipeline = parsePipeline(parse(benchPipelines[name] ?? ""), name);
  const [stage] = planStages(pipeline, {});
  if (!stage) throw new Error(`${name} has no stage`);
  const baseMs = Date.now();
  let added = 0;
  const addChunk = async (count: number, isPublished: boolean): Promise<void> => {
    const first = added + 1;
    added += count;
    const rank = rankOf({ baseMs, priority: 5, complexity: "simple" });
    await sql.query(
      `with made as materialized (
         select 'v_' || lpad(n::text, 26, '0') as id, $1::bigint + n as rank from generate_series($2::int, $3::int) n),
       jobs_made as (
         insert into jobs (id, pipeline, pipeline_version, user_id, channel_id, priority, complexity, request, estimated_micros, halt_micros, rank)
         select id, $4, 1, 'bench', 'bench', 5, 'simple', '{}', $5::bigint, 3000000, rank from made),
       stages_made as (
         insert into stages (job_id, position, name, kind, state, spec, open_needs, estimated_micros, rank, user_id, pipeline, shape)
         select id, 0, $6, $7, 'ready', $8::jsonb, 0, $9::bigint, rank, 'bench', $4, $10 from made)
       insert into events (type, job_id, body, published_seq)
       select 'job.queued', id, jsonb_build_object('pipeline', $4::text, 'position', 1, 'priority', 5, 'complexity', 'simple'),
              case when $11::boolean then nextval('event_publications') end from made`,
      [
        rank,
        first,
        added,
        name,
        pipeline.estimate.simple,
        stage.name,
        stage.kind,
        JSON.stringify(stage.spec),
        stage.estimatedMicros,
        stage.shape,
        isPublished,
      ],
    );
  };
  return {
    add: async (count, isPublished) => {
      for (let left = count; left > 0; left -= chunk) await addChunk(Math.min(chunk, left), isPublished);
      // What autovacuum would have done while a queue of this depth grew.
      if (isPublished) for (const table of ["jobs", "stages", "events"]) await sql.query(`vacuum (analyze) ${table}`);
    },
    added: () => added,
  };
};
