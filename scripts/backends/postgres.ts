// An outside PostgreSQL for one test run: the oldest installed server from version 15 on, a folder and a port of its own.
// PostgreSQL refuses to run as root, so as root it runs as the user that its package made. fsync is off: nothing outlives the run.
import { execFile } from "node:child_process";
import { chown, mkdir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort, type ServerProcess, startServer } from "./server-process.ts";

const run = promisify(execFile);
/** Debian and Ubuntu keep every major version in a folder of its own. */
const packages = "/usr/lib/postgresql";
const oldestSupported = 15;

/** With a port it starts again, on the data that an earlier start left in the folder. */
export const startPostgres = async (
  folder: string,
  at?: number,
): Promise<ServerProcess & { readonly url: string; readonly version: string }> => {
  const version = await oldestInstalled();
  const program = (name: string) => join(packages, `${version}`, "bin", name);
  const data = join(folder, "data");
  const owner = process.getuid?.() === 0 ? await unprivileged() : {};
  const isNew = (await mkdir(data, { mode: 0o700, recursive: true })) !== undefined;
  if (isNew && owner.uid !== undefined && owner.gid !== undefined) {
    await chown(folder, owner.uid, owner.gid);
    await chown(data, owner.uid, owner.gid);
  }
  const initdb = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
  if (isNew) await run(program("initdb"), initdb, { cwd: folder, ...owner });
  const port = at ?? (await freePort());
  const settings = ["fsync=off", "listen_addresses=127.0.0.1", `port=${port}`, `unix_socket_directories=${folder}`];
  const server = await startServer({
    name: `PostgreSQL ${version}`,
    program: program("postgres"),
    args: ["-D", data, ...[...settings, "max_connections=100"].flatMap((s) => ["-c", s])],
    cwd: folder,
    ...owner,
    // Fast shutdown: ends sessions that a failed test left open.
    stopSignal: "SIGINT",
    deadlineMs: 30_000,
    answers: () =>
      run(program("pg_isready"), ["-h", "127.0.0.1", "-p", `${port}`]).then(
        () => true,
        () => false,
      ),
  });
  return { ...server, version: `${version}`, url: `postgresql://postgres@127.0.0.1:${port}/postgres` };
};

const oldestInstalled = async (): Promise<number> => {
  const versions: number[] = [];
  for (const name of await readdir(packages).catch(() => [])) {
    const isServer = await stat(join(packages, name, "bin/initdb")).catch(() => undefined);
    if (isServer && Number(name) >= oldestSupported) versions.push(Number(name));
  }
  const oldest = Math.min(...versions);
  if (!Number.isFinite(oldest))
    throw new Error(`no PostgreSQL server ${oldestSupported} or newer in ${packages}; install the package postgresql`);
  return oldest;
};

const unprivileged = async (): Promise<{ uid?: number; gid?: number }> => {
  const { stdout } = await run("getent", ["passwd", "postgres"]);
  const [, , uid, gid] = stdout.split(":");
  return { uid: Number(uid), gid: Number(gid) };
};
