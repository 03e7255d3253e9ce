// The embedded default: a real PostgreSQL as a child process on a unix socket, with all its files in one data folder.
// It owns that folder (lock, first initdb, start, adoption, restart, stop); what runs on it is postmaster.ts's to say.
// The server outlives a kill -9 of this process: the next start adopts it, or starts it again and it recovers from its log.
// Invariants: one control plane a folder; after stop() no process of the server is left.
import { createHash } from "node:crypto";
import { chownSync, existsSync, lstatSync, mkdirSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import { answersWhile, createCluster, createDatabase, database, startServer, user } from "./cluster.ts";
import { type FolderLock, lockFolder } from "./folder-lock.ts";
import { findPackagedPostgres, linkLibraries } from "./packaged-postgres.ts";
import type { PostgresAddress } from "./postgres.ts";
import { belongs, clearDead, findPostmaster, stopPostmaster } from "./postmaster.ts";
import { chooseIdentity, type ServerIdentity } from "./server-identity.ts";

export type Embedded = Lifetime & { readonly address: PostgresAddress };

/** Fast shutdown writes what is dirty in 128 MB; above this it is ended at once and recovers at the next start. */
const fastStopMs = 10_000;
/** How long a dead server stays unnoticed. */
const watchMs = 500;
/** sun_path of Linux is 108 bytes with its closing zero. */
const maxSocketPath = 107;

/** Fixed for every start; fsync, full_page_writes and checksums stay as PostgreSQL has them, on. */
const serverSettings = {
  listen_addresses: "",
  max_connections: "50",
  shared_buffers: "128MB",
  // One file a weekday, emptied when its day comes again: seven days of messages at most.
  logging_collector: "on",
  log_filename: "postgres-%a.log",
  log_rotation_age: "1d",
  log_rotation_size: "0",
  log_truncate_on_rotation: "on",
  max_logical_replication_workers: "0",
};

export const createEmbedded = (options: {
  readonly dataDir: string;
  readonly log: Logger;
  /** More server settings; tests that do not prove durability turn fsync off. */
  readonly settings?: Readonly<Record<string, string>>;
  /** false: a server that dies stays dead, and no timer keeps this process alive. Default true. */
  readonly isWatched?: boolean;
}): Embedded => {
  mkdirSync(options.dataDir, { recursive: true, mode: 0o700 });
  const folder = realpathSync(options.dataDir);
  const socketDir = socketFolder(folder);
  const cluster = join(folder, "cluster");
  const { log } = options;
  let lock: FolderLock | undefined;
  let watch: Rhythm | undefined;
  let pid = 0;

  const launch = async (): Promise<void> => {
    const packaged = findPackagedPostgres();
    const libraries = join(folder, "lib");
    linkLibraries(packaged, libraries);
    const env = { PATH: process.env.PATH, LD_LIBRARY_PATH: libraries, LC_ALL: "C", TZ: "UTC" };
    const identity = chooseIdentity(folder, [packaged.postgres, "--version"], env);
    await createCluster(cluster, packaged.initdb, identity, env);
    pid = (await adopt(packaged.postgres)) ?? (await startHere(packaged.postgres, identity, env));
    await createDatabase(socketDir);
  };

  /** The server that an earlier control plane left running, once it answers; it may still be recovering. */
  const adopt = async (program: string): Promise<number | undefined> => {
    const running = findPostmaster(cluster);
    if (!running) return undefined;
    if (running.program === program && (await answersWhile(socketDir, () => belongs(running.pid, cluster)))) {
      log.info({ pid: running.pid }, "the running database server is adopted");
      return running.pid;
    }
    // An upgrade replaced its program, or it does not answer here: its files are fine, it is not.
    await stopPostmaster(cluster, running.pid, fastStopMs);
    return undefined;
  };

  const startHere = async (program: string, identity: ServerIdentity, env: NodeJS.ProcessEnv): Promise<number> => {
    await clearDead(cluster);
    const logDir = join(folder, "log");
    for (const path of [socketDir, logDir]) ownFolder(path, identity);
    const settings = {
      ...serverSettings,
      unix_socket_directories: socketDir,
      log_directory: logDir,
      ...options.settings,
    };
    const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    try {
      const started = await startServer(
        program,
        ["-D", cluster, ...args],
        identity,
        env,
        join(folder, "start.log"),
        socketDir,
      );
      log.info({ pid: started }, "the database server runs");
      return started;
    } catch (error) {
      // A server whose control plane was killed while it started shows itself only now; PostgreSQL let it win.
      const other = await adopt(program);
      if (other === undefined) throw error;
      return other;
    }
  };

  const createWatch = (): Rhythm =>
    rhythm({
      name: "embedded database",
      periodMs: watchMs,
      turn: async (signal) => {
        if (signal.aborted || belongs(pid, cluster)) return;
        log.error({ pid }, "the database server ended; it is started again");
        await launch();
      },
      onError: (error) => log.error({ err: error }, "the database server cannot be started"),
    });

  return {
    name: "embedded database",
    address: { socketDir, user, database },
    start: async () => {
      if (lock) return;
      lock = lockFolder(folder);
      try {
        await launch();
        watch = createWatch();
        if (options.isWatched !== false) await watch.start();
      } catch (error) {
        if (pid !== 0) await stopPostmaster(cluster, pid, fastStopMs);
        lock.release();
        lock = undefined;
        throw error;
      }
    },
    stop: async () => {
      if (!lock) return;
      await watch?.stop();
      await stopPostmaster(cluster, pid, fastStopMs);
      if (!socketDir.startsWith(folder)) rmSync(socketDir, { recursive: true, force: true });
      lock.release();
      lock = undefined;
      log.info({ pid }, "the database server stopped");
    },
  };
};

/** In the data folder, or in a short private folder when the kernel could not take the path. */
const socketFolder = (folder: string): string => {
  const path = join(folder, "socket");
  if (Buffer.byteLength(join(path, ".s.PGSQL.5432")) <= maxSocketPath) return path;
  return join(tmpdir(), `renderplane-${createHash("sha256").update(folder).digest("hex").slice(0, 16)}`);
};

/** Made 0700 for the server's user. One that is there already must be exactly that: in /tmp anybody could have made it. */
const ownFolder = (path: string, { owner }: ServerIdentity): void => {
  if (!existsSync(path)) {
    mkdirSync(path, { mode: 0o700 });
    if (owner) chownSync(path, owner.uid, owner.gid);
  }
  const found = lstatSync(path);
  const expected = owner?.uid ?? process.getuid?.();
  if (!found.isDirectory() || found.uid !== expected || (found.mode & 0o077) !== 0)
    throw new ConfigError(`${path} must be a folder of uid ${expected} with mode 0700. Remove it and start again.`);
};
