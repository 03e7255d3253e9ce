// One JSON log line format for both processes. Children carry fixed keys; messages are constant texts.
// Secrets are kept out at the source (config prints redacted); the paths below are the second line.
import { type Logger, pino } from "pino";

export type { Logger };

export const createLogger = (options: { readonly level: string; readonly process: string }): Logger =>
  pino({
    level: options.level,
    base: { process: options.process, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: {
      paths: [
        "token",
        "secret",
        "password",
        "authorization",
        "apiKey",
        "*.token",
        "*.secret",
        "*.password",
        "*.authorization",
        "*.apiKey",
        "headers.authorization",
        "headers.cookie",
      ],
      censor: "***",
    },
  });

/** For tests and for parts that are used without a process around them. */
export const silentLogger = (): Logger => pino({ level: "silent" });
