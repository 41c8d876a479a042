// Gradio's answers to the events of a page come over one stream (queue/data), which the server ends
// as soon as it owes the page nothing. An event that is sent (queue/join) while that end is still on
// its way would never hear its answer: the page takes the stream for open, the server has left it.
// Worse, the page drops the stream when it hears of the end, and if the server is still at it then,
// it throws away whatever the page has sent meanwhile. So every stream is read until the server has
// left it, and the page hears of the end only if no event waits; else it is taken up again.
(() => {
	const PATIENCE = 1000; // ms for the page to hear of an end
	const send = window.fetch;
	const waiting = new Set(); // events that the server took and has not answered
	const early = new Set(); // answers that came before the page knew their event's number
	let joining = 0; // events on their way to the server
	let heard = Promise.resolve(); // settled once the page knows of the last end

	const told = async (read) => {
		try {
			return (await read()) ?? {};
		} catch {
			return {}; // of somebody in between, and for the page to judge
		}
	};

	const join = async (...request) => {
		joining++;
		try {
			const answer = await send(...request);
			const { event_id: event } = answer.ok ? await told(() => answer.clone().json()) : {};
			if (event && !early.delete(event)) waiting.add(event);
			await heard;
			return answer;
		} finally {
			joining--;
		}
	};

	const answered = async (message) => {
		if (!message.includes("process_completed")) return;
		const { msg, event_id: event } = await told(() => JSON.parse(message.replace(/^data:/, "")));
		if (msg === "process_completed" && !waiting.delete(event)) early.add(event);
	};

	const follow = async (request) => {
		const again = request.clone();
		const decoder = new TextDecoder();
		const encoder = new TextEncoder();
		const first = await send(request);
		if (!first.ok || !first.body) return first;
		let source = first.body.getReader();
		let text = "";
		const next = async () => {
			for (;;) {
				const end = text.indexOf("\n\n");
				if (end >= 0) {
					const message = text.slice(0, end + 2);
					text = text.slice(end + 2);
					return message;
				}
				const { value, done } = await source.read();
				if (done) return null;
				text += decoder.decode(value, { stream: true });
			}
		};
		const pull = async (page) => {
			let end = null;
			for (;;) {
				const message = await next();
				if (message?.includes('"msg":"close_stream"')) {
					end = message;
				} else if (message !== null) {
					await answered(message);
					return page.enqueue(encoder.encode(message));
				} else if (end === null) {
					waiting.clear();
					return page.close();
				} else if (joining || waiting.size) {
					source = (await send(again.clone())).body.getReader();
					text = "";
					end = null;
				} else {
					// The page aborts the request when it has heard of the end.
					heard = new Promise((known) => {
						again.signal.addEventListener("abort", known, { once: true });
						setTimeout(known, PATIENCE);
					});
					page.enqueue(encoder.encode(end));
					return page.close();
				}
			}
		};
		const body = new ReadableStream({ pull, cancel: (why) => source.cancel(why) });
		return new Response(body, { status: first.status, headers: first.headers });
	};

	window.fetch = (resource, options) => {
		const { pathname } = new URL(resource.url ?? resource, location.href);
		if (pathname.endsWith("/queue/join")) return join(resource, options);
		if (pathname.endsWith("/queue/data")) return follow(new Request(resource, options));
		return send(resource, options);
	};
})();
