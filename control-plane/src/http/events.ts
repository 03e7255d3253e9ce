// GET /api/v1/events: the event log as server-sent events, resumed by Last-Event-ID, with live progress in between.
// Every durable event has its number as id; live progress has none, so a resume never depends on it.
// Invariant: a client that reads too slowly is closed, not buffered for; it comes back with the last id it saw.
import { createRoute, OpenAPIHono, z } from "@hono/zod-openapi";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import type { EventRow } from "../domain/records.ts";
import type { EventFeed, Progress } from "./event-feed.ts";
import type { HttpEnv } from "./guards.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { HttpOperations } from "./operations.ts";
import { problems } from "./problem.ts";
import { refuseInvalid } from "./validation.ts";

/** Bytes that may wait for one client: a browser tab in the background catches up, a dead one is let go. */
const maxBufferedBytes = 256 * 1024;
/** How long a client waits before it comes back (it is told so). */
const retryMs = 2_000;
const maxTopics = 50;

const eventSchema = z
  .strictObject({
    seq: z.int().openapi({ description: "Also the id of the frame: send it as Last-Event-ID to go on after it." }),
    type: z.string(),
    job_id: z.string().nullable(),
    host_id: z.string().nullable(),
    terminal: z.boolean(),
    at: z.string(),
    body: z.record(z.string(), z.unknown()),
  })
  .openapi("Event");

const route = createRoute({
  method: "get",
  path: "/api/v1/events",
  tags: ["events"],
  summary: "Events as they happen, with resume",
  request: {
    query: z.object({
      topics: z
        .string()
        .optional()
        .openapi({ description: "Comma-separated: jobs, hosts, job:<id>.", example: "jobs,hosts" }),
      last_event_id: z.string().optional().openapi({ description: "For clients that cannot send Last-Event-ID." }),
    }),
    headers: z.object({ "last-event-id": z.string().optional() }),
  },
  responses: {
    200: {
      description:
        "`event:` is the type, `data:` the event as JSON, `id:` its number. Frames `progress` without an id are live " +
        "progress inside a stage: {video_id, stage, progress, stage_progress, step, speed, eta_seconds, timestamp}.",
      content: { "text/event-stream": { schema: eventSchema } },
    },
    ...problems("invalid_request", "job_not_found", "unavailable"),
  },
});

export const eventRoutes = (
  operations: Pick<HttpOperations, "readJobDetail">,
  feed: EventFeed,
  streams: LiveStreams,
): OpenAPIHono<HttpEnv> => {
  const app = new OpenAPIHono<HttpEnv>({ defaultHook: refuseInvalid });
  app.openapi(route, async (c) => {
    const { topics, last_event_id } = c.req.valid("query");
    const after = eventNumber(c.req.header("last-event-id") ?? last_event_id);
    const wanted = await readTopics(topics ?? "jobs,hosts", operations);
    streams.checkRoom();
    return new Response(eventStream(feed, streams, wanted, after), {
      headers: {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
      },
    });
  });
  return app;
};

type Wanted = { readonly jobs: boolean; readonly hosts: boolean; readonly ids: ReadonlySet<string> };

const readTopics = async (text: string, operations: Pick<HttpOperations, "readJobDetail">): Promise<Wanted> => {
  const names = text.split(",").map((name) => name.trim());
  if (names.length > maxTopics) throw invalidTopic(`At most ${maxTopics} topics can be followed at once.`);
  const ids = new Set<string>();
  for (const name of names) {
    if (name === "jobs" || name === "hosts") continue;
    if (!name.startsWith("job:"))
      throw invalidTopic(`The topic ${JSON.stringify(name)} is not known; topics are jobs, hosts and job:<id>.`);
    const detail = await operations.readJobDetail(name.slice(4));
    if (!detail) throw new RenderplaneError("job_not_found", `There is no job ${name.slice(4)}.`);
    ids.add(detail.job.id);
  }
  return { jobs: names.includes("jobs"), hosts: names.includes("hosts"), ids };
};

const eventStream = (feed: EventFeed, streams: LiveStreams, wanted: Wanted, after: bigint | undefined) => {
  const encoder = new TextEncoder();
  let leave = () => {};
  let onRoom = () => {};
  return new ReadableStream<Uint8Array>(
    {
      start: (controller) => {
        let isOpen = true;
        const end = () => {
          if (!isOpen) return;
          leave();
          controller.close();
        };
        const hasRoom = () => isOpen && (controller.desiredSize ?? 0) > 0;
        const send = (text: string) => controller.enqueue(encoder.encode(text));
        /** What may be missed is left out while the client is slow. */
        const offer = (text: string) => {
          if (hasRoom()) send(text);
        };
        const unlisten = feed.listen(
          {
            room: () =>
              hasRoom() || !isOpen
                ? undefined
                : new Promise((resolve) => {
                    onRoom = resolve;
                  }),
            onEvent: (event) => {
              if (!isOpen || !wants(wanted, event)) return;
              if (hasRoom()) send(frame(event));
              else end();
            },
            onProgress: (message) => {
              // Progress after a stage is in the log already and comes with its number.
              if (message.stage_progress === undefined) return;
              if (wanted.jobs || wanted.ids.has(message.video_id)) offer(liveFrame(message));
            },
            onDropped: end,
          },
          after,
        );
        const remove = streams.add({ beat: () => offer(": still here\n\n"), end });
        leave = () => {
          isOpen = false;
          unlisten();
          remove();
          onRoom();
        };
        send(`retry: ${retryMs}\n\n`);
      },
      pull: () => onRoom(),
      cancel: () => leave(),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: maxBufferedBytes }),
  );
};

const wants = (wanted: Wanted, event: EventRow): boolean =>
  event.jobId !== null ? wanted.jobs || wanted.ids.has(event.jobId) : wanted.hosts && event.hostId !== null;

const frame = (event: EventRow): string =>
  `id: ${event.seq}\nevent: ${event.type}\ndata: ${JSON.stringify({
    seq: Number(event.seq),
    type: event.type,
    job_id: event.jobId,
    host_id: event.hostId,
    terminal: event.isTerminal,
    at: event.at.toISOString(),
    body: event.body,
  } satisfies z.infer<typeof eventSchema>)}\n\n`;

/** The message as it came from the bus: {video_id, stage, progress, stage_progress, step, speed, eta_seconds, timestamp}. */
const liveFrame = (message: Progress): string => `event: progress\ndata: ${JSON.stringify(message)}\n\n`;

const eventNumber = (text: string | undefined): bigint | undefined => {
  if (text === undefined || text === "") return undefined;
  if (!/^\d{1,18}$/.test(text))
    throw new RenderplaneError(
      "invalid_request",
      `Last-Event-ID must be the number of an event, got ${JSON.stringify(text.slice(0, 40))}.`,
    );
  return BigInt(text);
};

const invalidTopic = (message: string) =>
  new RenderplaneError("invalid_request", message, { fields: [{ pointer: "/query/topics", detail: message }] });
