// A development server as Node's users have it, which compresses: `compressing_proxy.mjs URL`.
import compression from "compression";
import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";

const app = express();
app.use(compression());
app.use("/", createProxyMiddleware({ target: process.argv[2], changeOrigin: true }));
const server = app.listen(0, "127.0.0.1", () => console.log(`listens on ${server.address().port}`));
