"""Steps, objectives, losses and weight nets for users to compose; imports only `errors` from the package."""
