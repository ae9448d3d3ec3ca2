"""A model as a service over HTTP, and as an app in the browser."""
