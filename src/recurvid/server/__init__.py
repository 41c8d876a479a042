"""The API over HTTP: OpenAI's video endpoints, the native ones, and who may use them."""
