// Swagger UI on this agent's own document; nothing is asked of any other host.
"use strict";

const csrfToken = () => document.cookie.match(/(?:^|;\s*)csrftoken=([^;]+)/)?.[1];

SwaggerUIBundle({
  url: document.getElementById("docs").dataset.document,
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  displayRequestDuration: true,
  // Staff who are signed in to the admin may try the operators' routes without a key.
  requestInterceptor: (request) => {
    const token = csrfToken();
    if (token && request.method && request.method !== "GET") {
      request.headers["X-CSRFToken"] = token;
    }
    return request;
  },
});
