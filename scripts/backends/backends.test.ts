// The servers of a test run: they start, answer, and are gone after stop.
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { describe, expect, test } from "vitest";
import { startPostgres } from "./postgres.ts";
import { startRedis } from "./redis.ts";

const inFolder = async (act: (folder: string) => Promise<void>) => {
  const folder = await mkdtemp(join(tmpdir(), "renderplane-backends-"));
  try {
    await act(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

const isOpen = (url: string): Promise<boolean> =>
  new Promise((resolve) => {
    const { hostname, port } = new URL(url);
    const socket = connect({ host: hostname, port: Number(port) });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

describe("servers of a test run", () => {
  test("PostgreSQL 15 or newer, also as root", () =>
    inFolder(async (folder) => {
      const server = await startPostgres(folder);
      const client = new Client({ connectionString: server.url });
      await client.connect();
      const { rows } = await client.query<{ version: number }>(
        "select current_setting('server_version_num')::int / 10000 as version",
      );
      await client.end();
      expect(rows[0]?.version).toBeGreaterThanOrEqual(15);
      expect(`${rows[0]?.version}`).toBe(server.version);
      await server.stop();
      expect(await isOpen(server.url)).toBe(false);
    }));

  test("Redis", () =>
    inFolder(async (folder) => {
      const server = await startRedis(folder);
      expect(await isOpen(server.url)).toBe(true);
      await server.stop();
      expect(await isOpen(server.url)).toBe(false);
    }));
});
