// renderplane queue: what waits, by lane, against which limits, and the head of the queue with what each place is made of.
import { formatDuration } from "@renderplane/proto/kernel/units.ts";
import { type ExitCode, exitCodes } from "../failure.ts";
import { table } from "../output.ts";
import type { QueueJson } from "../shapes.ts";
import type { Session } from "./session.ts";

export const showQueue = async (session: Session): Promise<ExitCode> => {
  const queue = await session.client.get<QueueJson>("/api/v1/queue");
  const { output } = session;
  if (output.json(queue)) return exitCodes.ok;
  const { limits, reached } = queue;
  const oldest = queue.oldest_wait_seconds === null ? "" : `, the oldest for ${time(queue.oldest_wait_seconds)}`;
  output.result(`${queue.depth} of at most ${limits.depth} jobs wait${oldest}`);
  output.result(`${queue.processing} of at most ${limits.jobs} jobs are in work`);
  if (queue.scheduled > 0) output.result(`${queue.scheduled} of them wait for their not_before`);
  if (queue.resting_stages > 0) output.result(`${queue.resting_stages} stages wait before another try`);
  const held = [
    ...(reached.jobs ? ["jobs"] : []),
    ...reached.users.map((user) => `jobs of ${user}`),
    ...reached.pipelines.map((name) => `${name} jobs`),
    ...reached.providers,
  ];
  if (held.length > 0) output.result(output.paint("yellow", `limits reached: ${held.join(", ")}`));
  if (queue.lanes.length > 0) {
    const rows = queue.lanes.map((lane) => [
      lane.pipeline,
      lane.complexity,
      `${lane.queued}`,
      `${lane.processing}`,
      lane.oldest_wait_seconds === null ? "-" : time(lane.oldest_wait_seconds),
    ]);
    output.result("");
    output.result(table(["pipeline", "complexity", "waiting", "in work", "oldest"], rows));
  }
  if (queue.head.length > 0) {
    const rows = queue.head.map((job) => [
      `${job.position}`,
      job.id,
      job.pipeline,
      job.user_id,
      `${job.priority}`,
      job.place.premium_seconds > 0 ? "premium" : "-",
      job.place.share_seconds > 0 ? `+${time(job.place.share_seconds)}` : "-",
      job.not_before ?? "-",
    ]);
    output.result("");
    output.result(table(["place", "id", "pipeline", "user", "priority", "premium", "share", "not before"], rows));
  }
  return exitCodes.ok;
};

const time = (seconds: number): string => formatDuration(seconds * 1000);
