// The WebSocket of the older interface: the last state first, then every progress message of one video, until it ends.
// Messages are those of requirements 002: {video_id, stage, progress, timestamp}, more fields may follow.
// Invariant: the socket closes 1000 after the state that ended the job, 4404 when there is no such video, 1012 at shutdown.
import type { WebSocketLike } from "@hono/node-server";
import { isFinalJob, isLeased } from "@renderplane/proto/kernel/stage-state.ts";
import type { WSContext, WSEvents } from "hono/ws";
import { WebSocket } from "ws";
import type { JobDetail } from "../domain/records.ts";
import type { EventFeed } from "./event-feed.ts";
import { jobJson } from "./job-json.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { HttpOperations } from "./operations.ts";

const closeNormal = 1000;
const closeRestart = 1012;
const closeFault = 1011;
const closeUnknown = 4404;
/** Bytes that may wait for a client that does not read; above it the socket is closed. */
const maxBufferedBytes = 256 * 1024;
/** The older clients send nothing; a frame larger than this ends the socket. */
export const maxIncomingBytes = 4 * 1024;

export const streamProgress = (
  videoId: string,
  operations: Pick<HttpOperations, "readJobDetail">,
  feed: EventFeed,
  streams: LiveStreams,
): WSEvents<WebSocketLike> => {
  let leave = () => {};
  const open = async (ws: WSContext<WebSocketLike>) => {
    let jobId: string | undefined;
    /** Jobs that ended before it was known which one is ours. */
    const endedEarly = new Set<string | null>();
    const end = (code: number, reason: string) => {
      leave();
      ws.close(code, reason);
    };
    const send = (message: unknown) => {
      const socket = ws.raw;
      if (socket instanceof WebSocket && socket.bufferedAmount > maxBufferedBytes) end(closeFault, "too slow");
      else if (ws.readyState === WebSocket.OPEN) ws.send(JSON.stringify(message));
    };
    const tellState = async (): Promise<void> => {
      const detail = await operations.readJobDetail(videoId);
      if (!detail) return end(closeUnknown, "Video not found");
      jobId = detail.job.id;
      send(lastState(videoId, detail));
      if (isFinalJob(detail.job.state)) end(closeNormal, detail.job.state);
      else if (endedEarly.delete(jobId)) await tellState();
    };
    const failed = () => end(closeFault, "The state of the video cannot be read now.");

    // Listening begins before the state is read: what changes in between is heard twice rather than never.
    const unlisten = feed.listen({
      onProgress: (message) => {
        if (message.video_id === jobId) send({ ...message, video_id: videoId });
      },
      onEvent: (event) => {
        if (!event.isTerminal) return;
        if (jobId === undefined) endedEarly.add(event.jobId);
        else if (event.jobId === jobId) tellState().catch(failed);
      },
      onDropped: () => end(closeRestart, "The control plane is restarting."),
    });
    const remove = streams.add({
      beat: () => {
        if (ws.raw instanceof WebSocket) ws.raw.ping();
      },
      end: () => end(closeRestart, "The control plane is restarting."),
    });
    leave = () => {
      unlisten();
      remove();
    };
    await tellState().catch(failed);
  };
  return {
    onOpen: (_event, ws) => void open(ws),
    onClose: () => leave(),
    onError: () => leave(),
  };
};

/** Progress in percent, as the messages have it; `stage` is the one at work, or the last that was. */
const lastState = (videoId: string, detail: JobDetail) => {
  const job = jobJson(detail, new Date());
  const stage =
    job.stages.find((s) => isLeased(s.state)) ?? job.stages.findLast((s) => s.started_at !== null) ?? job.stages[0];
  return {
    video_id: videoId,
    stage: stage?.name ?? null,
    progress: Math.round((job.progress ?? 0) * 1000) / 10,
    timestamp: new Date().toISOString(),
    status: job.state,
  };
};
