// Loaded before a node program: whatever it says it wants to listen on, it listens on the socket it was started with.
// Programs write `app.listen(3000)`, `listen(process.env.PORT)`, `listen(Number(process.env.PORT) || 3000, "0.0.0.0")`;
// no port is theirs to take, and nobody could reach it. Only the first server of the first process is meant: its
// children are programs of their own, and without that socket.
"use strict";
const net = require("node:net");

if (process.env.LISTEN_PID === String(process.pid) && process.env.LISTEN_FDS === "1") {
  const listen = net.Server.prototype.listen;
  let taken = false;
  net.Server.prototype.listen = function (...given) {
    if (taken) return listen.apply(this, given);
    taken = true;
    const called = given.filter((argument) => typeof argument === "function").slice(-1);
    return listen.call(this, { fd: 3 }, ...called);
  };
}
delete process.env.LISTEN_PID;
delete process.env.LISTEN_FDS;
